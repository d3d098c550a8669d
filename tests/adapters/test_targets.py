# SPDX-License-Identifier: Apache-2.0
"""Adapters people bring: other targets, experts, DoRA, ranks by pattern. Each trains and merges, or is refused."""

from __future__ import annotations

import math
import re

import pytest
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer

from hylora.adapters import HyLoraConfig, add_adapter, load_adapter, merge_adapter
from hylora.adapters.targets import linear_targets
from tests.adapters.adapted import IDS, nudge
from tests.architectures.zoo import ZOO
from tests.tiny import tiny_bamba, tiny_llama
from tests.tolerances import assert_close


def trained(model, **options):
    """The model with an adapter that does something, after a backward pass."""
    config = HyLoraConfig.for_model(model, "lora", r=2, lora_alpha=4, **options)
    model = nudge(add_adapter(model, config), seed=1, size=0.05)
    model.train()(IDS, labels=IDS, use_cache=False).loss.backward()
    return model.eval()


def idle(model) -> list[str]:
    """Trainable parameters without a gradient."""
    return [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to float32's rounding of the largest value: noise on every layer makes them large."""
    assert_close(actual / expected.abs().max(), expected / expected.abs().max())


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


def lora_on(model) -> set[str]:
    """Names of the base model's modules that carry LoRA."""
    return {name for name, module in model.get_base_model().named_modules() if isinstance(module, BaseTunerLayer)}


# The architectures whose mixers have no kernel that is simulated in test_fused.py.
@pytest.mark.parametrize("name", ["jamba", "qwen3_next", "olmo_hybrid", "lfm2"])
def test_every_linear_layer_that_can_train_does(name):
    model = ZOO[name].build()
    linear = set(linear_targets(model))
    model = trained(model, target_modules="all-linear")
    assert lora_on(model) == linear
    assert idle(model) == []
    expected = logits(model)
    assert_same(logits(merge_adapter(model)), expected)


def test_all_linear_leaves_out_what_a_mixer_reads_itself():
    config = HyLoraConfig.for_model(tiny_bamba(), "lora", target_modules="all-linear")
    assert config.target_modules == {
        *(f"{p}_proj" for p in ("q", "k", "v", "o", "gate", "up", "down")),
        "in_proj",
    }


@pytest.mark.parametrize("name", ["granitemoehybrid", "jamba", "qwen3_next"])
def test_experts_train_as_parameters(name):
    model = trained(ZOO[name].build(), target_parameters=["experts.gate_up_proj", "experts.down_proj"])
    assert any("experts" in parameter for parameter, p in model.named_parameters() if p.requires_grad)
    assert idle(model) == []
    expected = logits(model)
    merged = merge_adapter(model)
    assert merged.state_dict().keys() == ZOO[name].build().state_dict().keys()
    assert_same(logits(merged), expected)


def test_a_router_trains_in_full_on_a_bfloat16_base():
    model = ZOO["qwen3_next"].build(dtype=torch.bfloat16)
    model = add_adapter(model, HyLoraConfig.for_model(model, "lora", modules_to_save="mlp.gate"))
    with torch.autocast("cpu", torch.bfloat16):
        model(IDS, labels=IDS, use_cache=False).loss.backward()
    routers = [p for name, p in model.named_parameters() if ".mlp.gate." in name and p.requires_grad]
    assert len(routers) == 4 and all(p.dtype == torch.float32 and p.grad.any() for p in routers)


OPTIONS = {
    "dora": {"use_dora": True},
    "rslora by pattern": {
        "use_rslora": True,
        "init_lora_weights": "orthogonal",
        "rank_pattern": {"q_proj": 4},
        "alpha_pattern": {r"layers\.\d+\..*k_proj": 3},
    },
    "dora on mixers": {"use_dora": True, "target_modules": ["in_proj", "v_proj"], "init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ["bamba", "zamba2"])
def test_options_of_lora_are_trained_saved_and_merged(name, options, tmp_path):
    model = ZOO[name].build()
    before = logits(model)
    model = add_adapter(model, HyLoraConfig.for_model(model, "lora", r=2, lora_alpha=4, **options))
    assert_same(logits(model.eval()), before)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
                # a length of DoRA is not negative
                parameter.add_(noise.abs() if "magnitude" in parameter_name else 0.1 * noise)
    model.train()(IDS, labels=IDS, use_cache=False).loss.backward()
    assert idle(model) == []
    expected = logits(model.eval())
    assert (expected - before).abs().max() > 1e-2

    model.save_pretrained(tmp_path)
    resumed = load_adapter(ZOO[name].build(), tmp_path, trainable=True).eval()
    assert all(p.dtype == torch.float32 for p in resumed.parameters() if p.requires_grad)
    assert_same(logits(resumed), expected)
    with resumed.disable_adapter():
        assert_same(logits(resumed), before)
    assert_same(logits(merge_adapter(model)), expected)


def test_layers_and_exclusions():
    model = tiny_llama()
    config = HyLoraConfig.for_model(model, "lora", layers_to_transform=[1], exclude_modules=["k_proj"])
    assert lora_on(add_adapter(model, config)) == {f"model.layers.1.self_attn.{p}_proj" for p in "qvo"}


@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], r".*layers\.1\.self_attn\.q_proj"])
def test_names_that_peft_takes_for_others(targets):
    """Of Qwen3-Next's shared expert PEFT makes the experts, and of one layer all."""
    with pytest.raises(ValueError, match=r"must not match model\.layers\..*PEFT would make of it target_modules=\["):
        HyLoraConfig.for_model(ZOO["qwen3_next"].build(), "lora", target_modules=targets)


REFUSALS = {
    "an unknown option": ({"use_dorra": True}, "use_dorra=True is no field of LoraConfig; the nearest is use_dora"),
    "biases of the base": ({"bias": "all"}, "bias='all' must be left out: it trains the base's own biases"),
    "tokens": ({"trainable_token_indices": [1]}, "trainable_token_indices.*variant='longlora'"),
    "an option that nobody tried": ({"use_qalora": True}, "use_qalora=True must be left out: it has not been tested"),
    "principal components": ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' must be one of True, F"),
    "a layer without attention": ({"layers_to_transform": [0, 1]}, "layers_to_transform=0 must be a layer with a"),
    "a pattern for nothing": (
        {"rank_pattern": {"q_prj": 4}},
        r"rank_pattern='q_prj' must match a target; the nearest is 'model\.layers\.",
    ),
    "an exclusion of nothing": (
        {"exclude_modules": ["out_prj"]},
        r"exclude_modules='out_prj' must match a module of BambaForCausalLM; the nearest is '\S*out_proj'",
    ),
    "an exclusion as text that matches no whole name": (
        {"exclude_modules": "q_proj"},
        r"exclude_modules='q_proj' must match the whole name .*give a list: \[q_proj\]",
    ),
    "a target as text that matches no whole name": (
        {"target_modules": "q_proj"},
        "as text it is a regular expression",
    ),
    "a layer without a target, alone": ({"layers_to_transform": [0]}, "layers_to_transform=0 must be a layer with a"),
    "a rank of zero": ({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj=0 must be an integer of at least 1"),
    "half a rank": ({"rank_pattern": {"q_proj": 8.5}}, "rank_pattern.q_proj=8.5 must be an integer of at least 1"),
    "no scale": ({"alpha_pattern": {"q_proj": math.nan}}, "alpha_pattern.q_proj=nan must be a number of at least 1"),
    "a scale of zero": ({"lora_alpha": 0}, "lora_alpha=0 must be above 0"),
    "more dropout than there is": ({"lora_dropout": 2.0}, r"lora_dropout=2.0 in \[0, 1\)"),
    "what follows from the model": ({"ensure_weight_tying": True}, "ensure_weight_tying=True is no field"),
    "no regular expression": ({"alpha_pattern": {"(": 4}}, r"alpha_pattern='\(' is not a regular expression"),
    "an absent parameter": (
        {"target_parameters": ["experts.up"]},
        "target_parameters='experts.up' must match a parameter of BambaForCausalLM; the nearest is 'model.",
    ),
    "a weight that the mixer reads": (
        {"target_parameters": ["mamba.out_proj.weight"]},
        r"layers\.0\.mamba\.out_proj: BambaMixer reads out_proj\.weight itself",
    ),
}


@pytest.mark.parametrize(("options", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        HyLoraConfig.for_model(tiny_bamba(), "lora", **options)


def test_a_hand_made_config_is_refused_before_the_base_changes():
    model = tiny_llama()
    before = logits(model)
    with pytest.raises(ValueError, match="init_lora_weights='olora'"):
        add_adapter(model, LoraConfig(target_modules=["q_proj"], init_lora_weights="olora"))
    assert torch.equal(logits(model), before)
