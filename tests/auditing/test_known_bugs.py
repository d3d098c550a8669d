# SPDX-License-Identifier: Apache-2.0
"""The bugs that an audit is for, put in by hand."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import sdpa_mask

from hylora.architecture import _POSITIONS_UNSEEN, shows_positions
from hylora.auditing.miniature import miniature
from hylora.language.data import DataRecipe, SourceRecipe, check_packing
from tests.architectures.matrix import MATRIX, YES
from tests.architectures.zoo import HYBRIDS, ZOO
from tests.auditing.asking import ask
from tests.tiny import tiny_bamba


def adapted(model_type, *targets, **fields):
    return get_peft_model(ZOO[model_type].build(**fields), LoraConfig(r=2, target_modules=list(targets)))


@pytest.mark.parametrize("architecture", HYBRIDS, ids=lambda architecture: architecture.model_type)
def test_packing_leaks_state_on_every_hybrid(architecture):
    answer = ask(architecture.build(), "packed")["packed"]
    assert answer.status == "no"
    assert answer.difference > 0.01
    cause = "recurrent layers carry" if shows_positions(architecture.build().config) else "does not show position_ids"
    assert cause in answer.cause


@pytest.mark.parametrize(
    "model_type",
    [pytest.param(name, marks=[] if name == "gpt_oss" else pytest.mark.slow) for name in sorted(_POSITIONS_UNSEEN)],
)
def test_packing_leaks_where_the_mask_is_not_told_of_positions(model_type):
    """A recipe is refused that would pack documents so."""
    config, _ = miniature(AutoConfig.for_model(model_type))
    answer = ask(AutoModelForCausalLM.from_config(config), "packed")["packed"]
    assert answer.status == "no"
    assert f"{model_type!r} does not show position_ids to its mask" in answer.cause
    with pytest.raises(ValueError, match=f"{model_type!r} masks full attention without looking"):
        check_packing(DataRecipe([SourceRecipe("x")], packing="documents"), config)


def test_packing_is_right_where_nothing_carries_state():
    answer = ask(ZOO["llama"].build(), "packed")["packed"]
    assert answer.status == "yes"
    assert answer.difference < 3e-5


@pytest.mark.parametrize("architecture", HYBRIDS, ids=lambda architecture: architecture.model_type)
def test_what_kernels_would_change_is_said(architecture):
    """As the architecture tests find with stand-ins for the kernels."""
    answer = ask(architecture.build(), "indexed")["indexed"]
    assert answer.status != "yes"
    told = MATRIX[architecture.model_type, "packed_kernels"] == YES
    assert ("layers hand the boundaries to" if told else "no kernels would help") in answer.remedy
    assert ("'se_attn'" in answer.remedy) == (architecture.model_type == "granitemoehybrid")


def test_a_lora_that_the_training_kernel_reads_past():
    """As mamba_split_conv1d_scan_combined, which is given out_proj.weight."""
    model = adapted("bamba", "q_proj", "out_proj")
    right = ask(model, "gradients", "used")
    assert right.passed
    layer = model.get_submodule("base_model.model.model.layers.2.mamba.out_proj")
    whole = layer.forward
    layer.forward = lambda x: F.linear(x, layer.weight) if layer.training else whole(x)
    found = ask(model, "gradients", "used")
    assert found["gradients"].status == found["used"].status == "no"
    assert "layers.2.mamba.out_proj" in found["gradients"].cause
    assert "any output of a training step" in found["used"].cause


def test_a_lora_that_is_cut_off_from_the_loss():
    model = adapted("llama", "v_proj")
    layer = model.get_submodule("base_model.model.model.layers.1.self_attn.v_proj")
    whole = layer.forward
    layer.forward = lambda x: layer.base_layer(x) + (whole(x) - layer.base_layer(x)).detach()
    found = ask(model, "gradients", "used")
    assert found["gradients"].status == "no"
    assert found["gradients"].cause.startswith("2 of 4 get no gradient")
    assert found["used"].status == "yes"


def test_a_lora_that_evaluation_reads_past():
    model = adapted("llama", "v_proj")
    layer = model.get_submodule("base_model.model.model.layers.1.self_attn.v_proj")
    whole = layer.forward
    layer.forward = lambda x: whole(x) if layer.training else layer.base_layer(x)
    found = ask(model, "gradients", "used")
    assert found["gradients"].status == "yes"
    assert "any output of evaluation" in found["used"].cause


def test_an_adapter_target_that_is_no_module():
    assert ask(adapted("nemotron_h", "q_proj"), "matched")["matched"].status == "yes"
    answer = ask(adapted("nemotron_h", "q_proj", "gate_proj"), "matched")["matched"]
    assert answer.status == "no"
    assert "'gate_proj' matches no module" in answer.cause


@pytest.mark.parametrize(
    ("model_type", "target", "fields"),
    [("zamba2", "q_proj", {}), ("llama", "lm_head", {"tie_word_embeddings": True})],
    ids=["blocks of several layers", "embedding and head"],
)
def test_a_shared_weight_whose_merge_changes_the_output(model_type, target, fields):
    found = ask(adapted(model_type, target, **fields), "merged", "merged_by_peft")
    assert found["merged_by_peft"].status == "no"
    assert found["merged_by_peft"].difference > 1e-3
    assert "hylora.merge_adapter" in found["merged_by_peft"].remedy
    assert found["merged"].status == "yes"


def test_a_cache_that_forgets_when_continued_by_pieces():
    found = ask(ZOO["jamba"].build(), "cached", "continued")
    assert found["cached"].status == "yes"
    assert found["continued"].status == "no"


def test_a_bound_on_the_step_that_decoding_forgets():
    """transformers applies `time_step_limit` to prompts and not to single tokens."""
    names = ("cached", "continued", "span_cached")
    assert ask(tiny_bamba(), *names, attention="se_attn_recall").passed
    found = ask(tiny_bamba(time_step_limit=(1.0, 100.0)), *names, attention="se_attn_recall")
    for answer in found.answers:
        assert answer.status == "no"
        assert "(from 1 to 100) in whole passes, and not in steps of one token" in answer.cause
        assert "hylora.bound_time_steps" in answer.remedy


def test_a_bound_is_not_blamed_for_what_else_is_broken(monkeypatch):
    break_cache(monkeypatch)
    answer = ask(tiny_bamba(time_step_limit=(1.0, 100.0)), "cached")["cached"]
    assert answer.status == "no"
    assert "time step" not in answer.cause
    assert answer.remedy == "generate with use_cache=False"


@pytest.mark.parametrize("model_type", ["bamba", "falcon_h1", "jamba"])
def test_positions_that_begin_anew_behind_a_cache(model_type):
    """Bamba's count from 0 in each call. Falcon-H1's go on, and Jamba has none."""
    answer = ask(ZOO[model_type].build(), "positions")["positions"]
    assert answer.status == ("no" if model_type == "bamba" else "yes")
    if model_type == "bamba":
        assert answer.difference > 0.01
        assert "pass position_ids" in answer.remedy


def break_cache(monkeypatch):
    update = DynamicLayer.update

    def forgetful(self, key, value, *arguments, **named):
        key, value = update(self, key, value, *arguments, **named)
        return 0.5 * key, value

    monkeypatch.setattr(DynamicLayer, "update", forgetful)


def test_a_broken_cache(monkeypatch):
    break_cache(monkeypatch)
    found = ask(ZOO["llama"].build(), "cached", "continued", "positions")
    assert found["cached"].status == found["continued"].status == "no"
    assert found["positions"].status == "not asked"


def plain_causal(module, query, key, value, attention_mask, **kwargs):
    """An attention function that looks neither at a mask nor at what the layer asks for."""
    output = F.scaled_dot_product_attention(query, key, value, is_causal=query.shape[2] > 1, enable_gqa=True)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register("plain_causal", plain_causal)
AttentionInterface.register("plain_but_masked", AttentionInterface()["sdpa"])
AttentionMaskInterface.register("plain_but_masked", sdpa_mask)


def test_a_sliding_window_that_is_dropped():
    fields = {"sliding_window": 8}
    kept = ZOO["mistral"].build(**fields, attn_implementation="plain_but_masked")
    assert ask(kept, "own_features")["own_features"].status == "yes"
    dropped = ZOO["mistral"].build(**fields, attn_implementation="plain_causal")
    answer = ask(dropped, "own_features")["own_features"]
    assert answer.status == "no"
    assert "sliding window" in answer.cause


def test_a_scale_and_a_dropout_that_are_dropped():
    model = ZOO["granitemoehybrid"].build(attention_dropout=0.1, attn_implementation="plain_causal")
    answer = ask(model, "own_features")["own_features"]
    assert answer.status == "no"
    assert "attention dropout, its own scale" in answer.cause


@pytest.mark.parametrize("model_type", ["bloom", "falcon"])
def test_a_dropout_that_is_a_module_is_no_number(model_type):
    heads = {"n_head": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(model_type, hidden_size=32, n_layer=2, vocab_size=64, **heads)
    config.attention_dropout = 0.1
    model = AutoModelForCausalLM.from_config(config).eval()
    assert any(isinstance(getattr(module, "attention_dropout", None), torch.nn.Module) for module in model.modules())
    assert ask(model, "own_features")["own_features"].status == "not asked"


def test_padding_that_is_ignored():
    """Without a mask function of its own, a registered attention gets no mask."""
    found = ask(ZOO["llama"].build(attn_implementation="plain_causal"), "padded_left", "padded_right")
    assert found["padded_left"].status == "no"
    assert "register a mask function" in found["padded_left"].remedy
    # What follows behind a row changes nothing in it.
    assert found["padded_right"].status == "yes"


def test_norms_that_do_not_move_in_bfloat16():
    model = ZOO["llama"].build(dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("norm" in name)
    found = ask(model, "precise", "gradients", "used")
    assert found["precise"].status == "no"
    assert "100 % of the values" in found["precise"].cause
    assert found["gradients"].status == found["used"].status == "yes"


def test_an_attention_that_sees_later_tokens():
    def everywhere(module, query, key, value, attention_mask, **kwargs):
        output = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        return output.transpose(1, 2).contiguous(), None

    AttentionInterface.register("everywhere", everywhere)
    assert ask(ZOO["llama"].build(attn_implementation="everywhere"), "causal")["causal"].status == "no"
