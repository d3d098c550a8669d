# SPDX-License-Identifier: Apache-2.0
"""Plans of adapters on quantised bases."""

from __future__ import annotations

import pytest

from hylora.language.model import load_model, plan_model
from hylora.planning import Hardware, TrainingSetup
from hylora.planning.simulation import Simulation
from hylora.tensors import stored_tensors
from tests.planning.tiny_plans import BAMBA, tiny_recipe
from tests.tiny import tiny_bamba

SIZES = {"hidden_size": 128, "intermediate_size": 256}
WIDE = {**BAMBA, **SIZES}
# The largest weight, a mixer's input projection, in its ordinary form: gate, channels, B, C and time steps.
LARGEST = 4 * 128 * (256 + 256 + 16 + 16 + 4)


def small_bamba():
    return tiny_bamba(**SIZES, num_hidden_layers=2, attn_layer_indices=[1])


def frozen(recipe) -> int:
    simulation = Simulation(recipe, plan_model(recipe), "no", kernels="torch")
    return simulation.resident().memory["frozen weights"]


@pytest.mark.parametrize(("method", "each"), [("nf4", 0.516), ("int8", 1), ("torchao_int8", 1)])
def test_quantized_weights_are_small(method, each, tmp_path):
    recipe = tiny_recipe(tmp_path, WIDE)
    plain = {"path": recipe.model.path}
    small = tiny_recipe(tmp_path, WIDE, model={**plain, "quantization": method})
    numbers = sum(
        parameter.numel()
        for name, parameter in small_bamba().named_parameters()
        if name.endswith(("_proj.weight", "in_proj.weight")) and "out_proj" not in name
    )
    saved = (4 - each) * numbers - LARGEST
    assert frozen(recipe) - frozen(small) == pytest.approx(saved, rel=1e-3)


def test_they_are_as_small_as_planned(tmp_path):
    pytest.importorskip("bitsandbytes")
    small_bamba().save_pretrained(tmp_path)
    recipe = tiny_recipe(tmp_path, WIDE, model={"path": str(tmp_path), "quantization": "nf4"})
    planned = frozen(recipe) - LARGEST
    model = load_model(recipe, plan_model(recipe), "no")
    held = sum(part.nbytes for p in model.parameters() for part in stored_tensors(p))
    # What is trained in full has a frozen copy.
    assert planned == pytest.approx(held, rel=0.02)


def test_they_are_not_spread(tmp_path):
    recipe = tiny_recipe(tmp_path, WIDE, model={"path": str(tmp_path), "quantization": "int8"})
    with pytest.raises(ValueError, match=r"sharding='fsdp' must not come with model\.quantization='int8'"):
        TrainingSetup(recipe, Hardware.parse("2x80GB"), sharding="fsdp")
