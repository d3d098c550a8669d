# SPDX-License-Identifier: Apache-2.0
"""What is read from configs, and what in them is refused."""

import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig

import hylora
from hylora.adapters.structure import find_groups
from hylora.architecture import attention_layers, full_attention_layers, is_recurrent, windowed_layers
from hylora.attention import SpanConfig, check_attention
from hylora.language.data import DataRecipe, SourceRecipe, check_packing
from hylora.language.data.packing import check_kernels
from hylora.recurrence import deaf_packages, enclosed, wrapped_function
from tests.architectures.kernels import boundary_kernels
from tests.architectures.matrix import MATRIX, YES
from tests.architectures.zoo import SIZES, ZOO
from tests.tiny import tiny_model
from tests.tolerances import assert_close

NAMES = ("se_attn", "sw_attn", "s2_attn")


@pytest.mark.parametrize("architecture", ZOO.values(), ids=ZOO)
def test_layers_are_read_from_the_config(architecture):
    config = architecture.build().config
    assert attention_layers(config) == list(architecture.attention)
    assert windowed_layers(config) == list(architecture.windowed)
    assert full_attention_layers(config) == sorted({*architecture.attention} - {*architecture.windowed})
    assert is_recurrent(config) == architecture.recurrent


DOCUMENTS = DataRecipe([SourceRecipe("x")], packing="documents")


@pytest.mark.parametrize("architecture", ZOO.values(), ids=ZOO)
def test_training_packs_documents_only_where_they_stay_apart(architecture):
    """What the recipe accepts is what the matrix says of rows packed by seq_idx, given kernels."""
    model = architecture.build()
    accepted = MATRIX[architecture.model_type, "packed_kernels"] == YES
    with nullcontext() if accepted else pytest.raises(ValueError, match=r"data\.packing='documents'.*use 'eos' or"):
        check_packing(DOCUMENTS, model.config, "se_attn")
    if not accepted:
        return
    with boundary_kernels(model):
        check_kernels(DOCUMENTS, model.config)
    bare = nullcontext() if not architecture.recurrent else pytest.raises(ValueError, match="without causal_conv1d")
    with bare:
        check_kernels(DOCUMENTS, model.config)
    check_kernels(replace(DOCUMENTS, packing="eos"), model.config)


@pytest.mark.parametrize("layer_types", [["attention"] * 4, ["mamba", "attention"] * 2])
def test_a_granite_packs_documents_under_an_attention_that_is_told(layer_types):
    config = ZOO["granitemoehybrid"].build(layer_types=layer_types).config
    with pytest.raises(ValueError, match="attention that sees boundaries.*attention.name=se_attn"):
        check_packing(DOCUMENTS, config, "full")
    check_packing(DOCUMENTS, config, "sw_attn")


def test_only_functions_that_read_boundaries_count():
    """One that transformers found, but without the argument, is of an older package."""
    model = ZOO["bamba"].build()
    code = sys.modules["transformers.models.bamba.modeling_bamba"]
    assert deaf_packages(model.config) == ["causal_conv1d", "mamba_ssm"]
    with boundary_kernels(model, {"mamba2_chunk_scan": None}):
        assert deaf_packages(model.config) == ["mamba_ssm"]
    with boundary_kernels(model), pytest.MonkeyPatch.context() as patch:
        assert deaf_packages(model.config) == []
        known = enclosed(wrapped_function(code.causal_conv1d_fn))["applicable_params"]
        patch.setattr(known, "cell_contents", ("x", "weight"))
        assert deaf_packages(model.config) == ["causal_conv1d"]


@pytest.mark.parametrize("architecture", ZOO.values(), ids=ZOO)
def test_attention_is_found_in_these_layers_and_nowhere_else(architecture):
    names = find_groups(architecture.build())["attention"]
    layers = {int(name.split("layers.")[1].split(".")[0]) for name in names}
    assert layers == set(architecture.attention)
    assert len(names) == architecture.projections * len(architecture.attention)


# Features of the models' own, and what the message names.
OWN = {
    "mistral": ({"sliding_window": 8}, "sliding window of its own"),
    "mixtral": ({"sliding_window": 8}, "sliding window of its own"),
    "phi3": ({"sliding_window": 8}, "sliding window of its own"),
    "qwen2": ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, "sliding window of its own"),
    "gemma3_text": ({"sliding_window": 8}, "sliding window of its own"),
    "recurrent_gemma": ({"num_hidden_layers": 3}, "sliding window of its own"),
    "falcon": ({"alibi": True}, "computes attention itself"),
    "falcon_mamba": ({}, "no attention layers"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model_type", OWN)
def test_a_models_own_features_are_refused_before_it_is_built(model_type, name):
    fields, message = OWN[model_type]
    config = AutoConfig.for_model(model_type, **{**SIZES, "num_hidden_layers": 2, **fields})
    with pytest.raises(ValueError, match=message):
        check_attention(config, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_windows_alone_is_refused_when_it_runs(name):
    """However it came by its attention."""
    fields = {**SIZES, "num_hidden_layers": 1, "sliding_window": 8}
    model = tiny_model("mistral", fields, 0, {"attn_implementation": name})
    with pytest.raises(ValueError, match="sliding window of its own"):
        model(torch.arange(1, 20)[None])


# Models that read no `layer_types`, given some: MiniMax and Qwen3-MoE mask all full attention by a window that they
# have, and Llama none.
MISTOLD = {
    "minimax": ({"layer_types": ["linear_attention", "full_attention"], "block_size": 16}, r"of 8 .* layer 1, .*\[\]"),
    "qwen3_moe": ({"layer_types": ["sliding_attention", "full_attention"]}, r"window of 8 .* in layer 1, .*\[0\]"),
    "llama": ({"layer_types": ["sliding_attention", "full_attention"]}, r"no sliding window .* in layer 0, .*\[0\]"),
}


@pytest.mark.parametrize("model_type", MISTOLD)
def test_windows_of_which_the_config_tells_otherwise_are_refused_when_the_model_runs(model_type):
    fields, message = MISTOLD[model_type]
    fields |= {"num_hidden_layers": 2, "head_dim": 8, "sliding_window": 8, "use_sliding_window": True}
    fields |= {"num_local_experts": 2, "num_experts": 2, "num_experts_per_tok": 1}
    model = tiny_model(model_type, {**SIZES, **fields}, 0, {"attn_implementation": "se_attn"})
    with pytest.raises(ValueError, match=message):
        model(torch.arange(1, 20)[None], use_cache=False)


def test_values_that_no_query_can_be_compared_with_are_refused_before_the_model_is_built():
    config = ZOO["deepseek_v3"].build().config
    for span in (None, SpanConfig(summary="landmark")):
        with pytest.raises(ValueError, match="queries, of 12 numbers per head, with values of 6.*se_attn_recall"):
            check_attention(config, "se_attn", span)
    check_attention(config, "se_attn_recall")
    check_attention(config, "se_attn", SpanConfig(summary="mean_key"))
    check_attention(config, "sw_attn")


def test_they_are_refused_before_weights_are_looked_for(tmp_path):
    ZOO["deepseek_v3"].build().config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="with values of 6"):
        hylora.load(tmp_path, "se_attn")
    with pytest.raises(ValueError, match="whole safetensors files"):
        hylora.load(tmp_path, "se_attn_recall")


def test_full_attention_is_what_transformers_has_for_a_model():
    """Neither bounded scores nor sinks are known to torch's own function."""
    for model_type, expected in (("gemma2", "eager"), ("gpt_oss", "eager"), ("llama", "sdpa")):
        model = ZOO[model_type].build()
        hylora.set_attention(model, "se_attn_recall")
        hylora.set_attention(model, "full")
        assert model.config._attn_implementation == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sinks_are_learned(dtype):
    """Under full attention's gradient where nothing is left out, in full attention and in windows."""
    gradients = []
    for name, options in (("full", {}), ("se_attn", {"chunk_size": 64, "block_size": 4})):
        model = ZOO["gpt_oss"].build(dtype=dtype)
        hylora.set_attention(model, name, **options)
        ids = torch.arange(1, 40)[None]
        model(ids, labels=ids, use_cache=False).loss.backward()
        gradients.append(torch.stack([layer.self_attn.sinks.grad for layer in model.model.layers]).float())
    assert gradients[0].abs().amin(dim=1).min() > 0
    assert_close(gradients[1], gradients[0], dtype)


# These two have no such option.
@pytest.mark.parametrize("model_type", sorted(ZOO.keys() - {"lfm2", "mamba2attn"}))
def test_attention_dropout_is_refused_in_training(model_type):
    model = ZOO[model_type].build(attention_dropout=0.1)
    hylora.set_attention(model, "se_attn_recall")
    with pytest.raises(ValueError, match="attention_dropout"):
        model.train()(torch.arange(1, 20)[None])


def test_granites_own_scaling_is_used():
    """That of full attention, at two different ones."""
    outputs = []
    for multiplier in (0.7, 0.2):
        model = ZOO["granitemoehybrid"].build(attention_multiplier=multiplier)
        with torch.no_grad():
            full = model(torch.arange(1, 40)[None]).logits
            hylora.set_attention(model, "se_attn", block_size=4, chunk_size=64)
            outputs.append(model(torch.arange(1, 40)[None]).logits)
        assert torch.equal(outputs[-1], full)
    assert not torch.allclose(*outputs, atol=1e-3)
