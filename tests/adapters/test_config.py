# SPDX-License-Identifier: Apache-2.0
"""What the presets find in a model, what they ask PEFT for, and what they refuse."""

from __future__ import annotations

import re

import pytest
import torch
from peft import LoraConfig
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from hylora.adapters import HyLoraConfig, add_adapter, print_trainable_parameters, trainable_groups
from tests.tiny import tiny_bamba, tiny_llama

# Bamba of tests/tiny.py: layers 0 and 2 hold a mixer, 1 and 3 attention.
PROJECTIONS = {f"model.layers.{layer}.self_attn.{p}_proj" for layer in (1, 3) for p in "qkvo"}
EMBEDDINGS = {"model.embed_tokens"}
NORMS = {
    "model.final_layernorm",
    *(f"model.layers.{layer}.{name}" for layer in range(4) for name in ("input_layernorm", "pre_ff_layernorm")),
    *(f"model.layers.{layer}.mamba.norm" for layer in (0, 2)),
}
CONVS = {f"model.layers.{layer}.mamba.conv1d" for layer in (0, 2)}
SAVED = {"lora": set(), "longlora": EMBEDDINGS | NORMS, "hylora": EMBEDDINGS | NORMS | CONVS}


def wrapped_by_peft(model) -> tuple[set[str], set[str]]:
    """Names of the base model's modules that carry LoRA, and of those trained in full."""
    modules = dict(model.get_base_model().named_modules())
    lora = {name.removesuffix(".lora_A") for name in modules if name.endswith(".lora_A")}
    return lora, {name for name, module in modules.items() if isinstance(module, ModulesToSaveWrapper)}


def meta_model(model_type: str, **fields):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **fields))


@pytest.mark.parametrize("variant", SAVED)
def test_exactly_the_found_modules_are_wrapped(variant):
    model = tiny_bamba()
    model = add_adapter(model, HyLoraConfig.for_model(model, variant))
    assert wrapped_by_peft(model) == (PROJECTIONS, SAVED[variant])


@pytest.mark.parametrize("variant", SAVED)
def test_counts_by_group(variant):
    hidden, inner, state, vocab, kv, r = 32, 64, 16, 96, 16, 4
    lora = 2 * r * (2 * (hidden + hidden) + 2 * (hidden + kv))
    norms = 4 * 2 * hidden + hidden + 2 * inner
    convs = 2 * (inner + 2 * state) * (4 + 1)
    expected = {"attention": lora, "embeddings": 0, "norms": 0, "convs": 0, "other": 0}
    if variant != "lora":
        expected |= {"embeddings": vocab * hidden, "norms": norms}
    if variant == "hylora":
        expected |= {"convs": convs}

    for tied in (False, True):
        model = tiny_bamba(tie_word_embeddings=tied)
        model = add_adapter(model, HyLoraConfig.for_model(model, variant, r=r))
        assert trainable_groups(model) == expected


def test_counts_of_a_model_without_an_adapter():
    model = tiny_llama()
    groups = trainable_groups(model)
    assert sum(groups.values()) == model.num_parameters()
    assert groups["attention"] == 2 * 32 * (32 + 16 + 16 + 32)
    model.requires_grad_(False)
    assert sum(trainable_groups(model).values()) == 0


def test_shares_are_of_the_base_model(capsys):
    model = tiny_bamba()
    size = model.num_parameters()
    model = add_adapter(model, HyLoraConfig.for_model(model, r=4))
    print_trainable_parameters(model)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["convs", "960", f"{100 * 960 / size:.4f}", "%"] in rows
    assert rows[-1] == ["model", f"{size:,}"]


def test_the_config_is_plain_and_stays_small():
    model = meta_model("bamba", num_hidden_layers=64, attn_layer_indices=[9, 18, 27, 36, 45, 56], hidden_size=64)
    config = HyLoraConfig.for_model(model, r=8, lora_alpha=16, lora_dropout=0.1, use_rslora=True)
    assert type(config) is LoraConfig
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_rslora) == (8, 16, 0.1, True)
    assert config.target_modules == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert config.modules_to_save == [
        "conv1d",
        "embed_tokens",
        "final_layernorm",
        "input_layernorm",
        "norm",
        "pre_ff_layernorm",
    ]


def test_names_that_only_look_alike_are_left_alone():
    model = tiny_bamba()
    mlp = model.model.layers[0].feed_forward
    mlp.norm = nn.Linear(2, 2)
    mlp.q_proj = nn.Linear(2, 2)
    mlp.conv1d = nn.Conv1d(2, 2, 1)
    model = add_adapter(model, HyLoraConfig.for_model(model))
    assert wrapped_by_peft(model) == (PROJECTIONS, SAVED["hylora"])


@pytest.mark.parametrize(
    ("model_type", "fields", "attention_layers", "convs"),
    [
        ("falcon_h1", {"num_hidden_layers": 3}, 3, 3),
        ("granitemoehybrid", {"layer_types": ["mamba", "attention"], "num_hidden_layers": 2}, 1, 1),
        ("jamba", {"num_hidden_layers": 8, "num_experts": 1}, 1, 7),
        ("lfm2", {"layer_types": ["conv", "full_attention", "conv"], "num_hidden_layers": 3}, 1, 2),
        ("qwen3_next", {"num_hidden_layers": 4, "num_experts": 2, "num_experts_per_tok": 1}, 1, 3),
        ("olmo_hybrid", {"num_hidden_layers": 4}, 1, 3),
    ],
)
def test_other_hybrids_are_understood_by_structure(model_type, fields, attention_layers, convs):
    if model_type == "olmo_hybrid":
        pytest.importorskip("transformers.models.olmo_hybrid")
    model = meta_model(model_type, **fields)
    head = model.get_output_embeddings()
    model = add_adapter(model, HyLoraConfig.for_model(model))
    lora, saved = wrapped_by_peft(model)
    assert len(lora) == 4 * attention_layers
    assert not any("linear_attn" in name or ".conv." in name for name in lora)
    modules = dict(model.get_base_model().named_modules())
    assert sum(isinstance(modules[name].original_module, nn.Conv1d) for name in saved) == convs
    assert not any(getattr(modules[name], "original_module", None) is head for name in lora)


def test_further_modules_train_when_asked():
    model = tiny_bamba()
    model = add_adapter(model, HyLoraConfig.for_model(model, modules_to_save=["lm_head"]))
    assert wrapped_by_peft(model)[1] == SAVED["hylora"] | {"lm_head"}
    assert trainable_groups(model)["other"] == 96 * 32


def test_a_tied_head_that_should_train_takes_the_embedding_along():
    model = tiny_bamba(tie_word_embeddings=True)
    model = add_adapter(model, HyLoraConfig.for_model(model, "lora", modules_to_save=["lm_head"]))
    base = model.get_base_model()
    assert base.lm_head.weight is base.model.embed_tokens.weight
    assert base.lm_head.weight.requires_grad
    assert trainable_groups(model)["embeddings"] == 96 * 32


def test_targets_of_the_users_choice():
    model = tiny_bamba()
    config = HyLoraConfig.for_model(model, "lora", target_modules=["in_proj", "down_proj"])
    lora, _ = wrapped_by_peft(add_adapter(model, config))
    assert lora == {f"model.layers.{layer}.mamba.in_proj" for layer in (0, 2)} | {
        f"model.layers.{layer}.feed_forward.down_proj" for layer in range(4)
    }


def test_all_linear_leaves_out_the_head():
    model = tiny_llama()
    lora, _ = wrapped_by_peft(add_adapter(model, HyLoraConfig.for_model(model, "lora", target_modules="all-linear")))
    assert len(lora) == 2 * 7


REFUSALS = {
    "unknown variant": (tiny_bamba, {"variant": "lora+"}, r"variant='lora\+' must be one of lora, longlora, hylora"),
    "no attention": (lambda: tiny_bamba(attn_layer_indices=[]), {}, "must have softmax attention .* target_modules"),
    "no convolutions": (tiny_llama, {"variant": "hylora"}, "LlamaForCausalLM has none.*use variant='longlora'"),
    "nothing matches": (tiny_bamba, {"target_modules": ["query"]}, "target_modules='query' must match a module"),
    "one absent target": (tiny_bamba, {"target_modules": ["q_proj", "qq"]}, "target_modules='qq' must match a module"),
    "rank of zero": (tiny_bamba, {"r": 0}, "r=0 must be an integer of at least 1"),
    "absent module by name": (tiny_bamba, {"modules_to_save": "lm_tail"}, "modules_to_save='lm_tail' must match a"),
    "absent module": (tiny_bamba, {"modules_to_save": ["lm_tail"]}, "modules_to_save='lm_tail' must match a module"),
    "LoRA on a convolution": (
        tiny_bamba,
        {"variant": "lora", "target_modules": ["q_proj", "conv1d"]},
        r"layers\.0\.mamba\.conv1d, a depthwise convolution.*variant='hylora'",
    ),
    "LoRA where the fused kernel passes by": (
        tiny_bamba,
        {"target_modules": ["q_proj", "out_proj"]},
        r"layers\.0\.mamba\.out_proj: BambaMixer reads out_proj\.weight itself.*leave 'out_proj' out",
    ),
    "the same by regular expression": (
        tiny_bamba,
        {"target_modules": r".*\.mamba\.(in|out)_proj"},
        "reads out_proj.weight itself",
    ),
    "no trainable norms": (
        lambda: meta_model("olmo", num_hidden_layers=1),
        {"variant": "longlora"},
        "OlmoForCausalLM has none with parameters; use variant='lora'",
    ),
    "tied under a name that PEFT does not tie": (
        lambda: meta_model("gpt2", n_layer=1),
        {"variant": "longlora", "target_modules": ["c_attn"]},
        "transformer.wte must be called .*tied to the output head",
    ),
    "not a transformers model": (lambda: nn.Linear(2, 2), {}, "model=Linear must be a transformers model"),
}


@pytest.mark.parametrize(("build", "options", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(build, options, message):
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        HyLoraConfig.for_model(build(), **options)


def test_names_that_peft_cannot_tell_apart():
    model = tiny_bamba()
    model.other = nn.Module()
    model.other.model = nn.Module()
    model.other.model.embed_tokens = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="'model.embed_tokens' must not end another module's name"):
        HyLoraConfig.for_model(model)


def test_a_hand_made_config_is_checked_too():
    with pytest.raises(ValueError, match="reads out_proj.weight itself"):
        add_adapter(tiny_bamba(), LoraConfig(target_modules=["out_proj"]))


def test_adapter_names_that_peft_confuses_with_modules():
    model = tiny_bamba()
    with pytest.raises(ValueError, match="adapter_name='mamba' must not be the name of a module"):
        add_adapter(model, HyLoraConfig.for_model(model), "mamba")


def test_a_second_adapter_goes_on_the_peft_model():
    model = tiny_bamba()
    config = HyLoraConfig.for_model(model)
    add_adapter(model, config)
    with pytest.raises(ValueError, match="already carries an adapter; pass the PeftModel"):
        add_adapter(model, config)
