# SPDX-License-Identifier: Apache-2.0
"""The stand-ins for fused kernels: they train what the real layers train, and grow as the kernels do."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hylora.language.model import plan_model
from hylora.planning.fused import Mamba2Scan, use_fused_scans
from hylora.planning.simulation import Simulation
from tests.planning.tiny_plans import BAMBA, LLAMA, tiny_recipe

JAMBA = {
    **LLAMA,
    "model_type": "jamba",
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "mamba_d_state": 8,
    "mamba_dt_rank": 4,
}


def build(config):
    fields = dict(config)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields)).train()


@pytest.mark.parametrize("config", [BAMBA, JAMBA], ids=["mamba-2", "mamba-1"])
def test_gradients_reach_what_they_reach_in_the_real_layer(config):
    ids = torch.ones(2, 33, dtype=torch.long)
    reached = []
    for fused in (False, True):
        model = build(config)
        if fused:
            assert len(use_fused_scans(model)) == 1
        logits = model(ids, use_cache=False).logits
        assert logits.shape == (2, 33, 96)
        logits.sum().backward()
        reached.append({name: p.grad.shape for name, p in model.named_parameters() if p.grad is not None})
    assert reached[0] == reached[1]


def test_layers_that_are_no_mamba_stay_as_they_are():
    assert use_fused_scans(build(LLAMA)) == []


@pytest.mark.parametrize(
    "config",
    [pytest.param(BAMBA, id="mamba-2"), pytest.param(JAMBA, id="mamba-1", marks=pytest.mark.slow)],
)
def test_memory_is_linear_in_the_length_and_below_that_of_the_real_layer(config, tmp_path):
    recipe = tiny_recipe(tmp_path, config, attention={"name": "full"})

    def recurrent(kernels, *lengths):
        simulation = Simulation(recipe, plan_model(recipe), "no", kernels=kernels)
        return [simulation.run(length).memory["recurrent layers"] for length in lengths]

    short, middle, long = recurrent("fused", 64, 2048, 4096)
    assert long - middle == pytest.approx(middle - short, rel=0.05)
    assert short < recurrent("torch", 64)[0]


def test_operations_of_the_chunked_scan():
    scan = Mamba2Scan(heads=4, head_dim=16, state=8, groups=2, chunk=32)
    # Per token: B times C of its chunk in each group, half the chunk's inputs, its own state made and read.
    assert scan.operations(1) == 2 * 32 * 2 * 8 + 32 * 64 + 4 * 64 * 8
    assert scan.backward_operations(10) > 2 * scan.operations(10)


def test_a_plan_counts_the_scans(tmp_path):
    recipe = tiny_recipe(tmp_path, BAMBA)
    with_scans = Simulation(recipe, plan_model(recipe), "no").run(64).operations
    scan = Mamba2Scan(heads=4, head_dim=16, state=16, groups=1, chunk=16)
    projections = 2 * 64 * 32 * (2 * 64 + 2 * 16 + 4) + 2 * 64 * 64 * 32
    assert with_scans["recurrent layers", "forward"] == projections + scan.operations(64)


def test_plans_with_torch_scans_need_a_machine_without_the_kernels(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    recipe = tiny_recipe(tmp_path, BAMBA)
    plan = plan_model(recipe)
    with pytest.raises(ValueError, match="mamba-ssm is installed"):
        Simulation(recipe, plan, "no", kernels="torch")
