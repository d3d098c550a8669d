# SPDX-License-Identifier: Apache-2.0
"""Small models are built as the large ones are."""

import pytest
from transformers import AutoConfig

from hylora.architecture import attention_layers, is_recurrent
from hylora.auditing.miniature import miniature
from tests.architectures.zoo import SIZES, ZOO

BAMBA_9B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "attn_layer_indices": [9, 18, 27],
    "mamba_n_heads": 128,
    "mamba_d_state": 128,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
}


def test_two_layers_of_each_kind_stay():
    config = AutoConfig.for_model("bamba", **BAMBA_9B)
    small, words = miniature(config)
    assert small.layer_types == ["linear_attention", "linear_attention", "full_attention", "full_attention"]
    assert attention_layers(small) == [2, 3]
    # Eight is the most that divides the key-value heads.
    assert (small.hidden_size, small.num_attention_heads, small.num_key_value_heads) == (512, 4, 1)
    assert (small.mamba_n_heads, small.mamba_d_head, small.intermediate_size) == (16, 64, 1792)
    assert words == "random weights, 4 of 32 layers, widths divided by 8, 512 of 128256 tokens"
    assert config.num_hidden_layers == 32


def test_layers_that_are_placed_by_a_period_keep_their_beginning():
    fields = {"num_hidden_layers": 8, "attn_layer_period": 4, "attn_layer_offset": 2}
    small, _ = miniature(AutoConfig.for_model("jamba", **{**SIZES, **ZOO["jamba"].fields, **fields}))
    assert small.num_hidden_layers == 3
    assert attention_layers(small) == [2]


@pytest.mark.parametrize(
    "model_type",
    [
        "falcon_h1",
        "gpt2",
        "llama",
        "mistral",
        "zamba2",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma2", "lfm2", "nemotron_h", "qwen3_next")),
    ],
)
def test_the_defaults_of_an_architecture_become_small(model_type):
    """Most are those of a published model."""
    config = AutoConfig.for_model(model_type)
    small, _ = miniature(config)
    assert small.model_type == model_type
    assert is_recurrent(small) == is_recurrent(config)
    assert set(getattr(small, "layer_types", None) or []) == set(getattr(config, "layer_types", None) or [])
    assert small.num_hidden_layers <= 5


def test_what_cannot_be_made_small_is_said():
    config = AutoConfig.for_model("llama", **SIZES, hidden_act="nonsense")
    with pytest.raises(ValueError, match=r"cannot be made small \(KeyError: 'nonsense'\)"):
        miniature(config)
