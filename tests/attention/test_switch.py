# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

import pytest
import torch
from transformers import (
    GPTJConfig,
    GPTJForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    xLSTMConfig,
)

import hylora
from hylora.attention import SpanConfig, check_attention
from tests.tiny import tiny_bamba, tiny_llama

IDS = torch.arange(1, 41)[None]


def test_switching_there_and_back():
    model = tiny_bamba()
    with torch.no_grad():
        full = model(IDS).logits
        hylora.set_attention(model, "se_attn", block_size=4, top_k=1, chunk_size=8)
        sparse = model(IDS).logits
        hylora.set_attention(model, "full")
        again = model(IDS).logits
    assert not torch.equal(full, sparse)
    assert torch.equal(full, again)


def test_without_options_those_of_the_config_stay():
    model = tiny_bamba()
    hylora.set_attention(model, "se_attn", block_size=4, chunk_size=8)
    hylora.set_attention(model, "full")
    hylora.set_attention(model, "se_attn")
    assert SpanConfig.of(model.config) == SpanConfig(block_size=4, chunk_size=8)


def test_one_word_switches_the_recall_preset_on():
    """By transformers' own flag, and by name in place of options that the model keeps."""
    model = tiny_bamba(attn_implementation="se_attn_recall")
    model.config.span_attention = {"block_size": 4, "top_k": 1, "chunk_size": 8}
    with torch.no_grad():
        flagged = model(IDS).logits
        options = {"block_size": 4, "top_k": 1, "chunk_size": 8}
        hylora.set_attention(model, "se_attn", selection="token", summary="mean_std", **options)
        assert torch.equal(model(IDS).logits, flagged)
        hylora.set_attention(model, "se_attn", **options)
        assert not torch.equal(model(IDS).logits, flagged)
        hylora.set_attention(model, "se_attn_recall", **options)
        assert torch.equal(model(IDS).logits, flagged)
    hylora.set_attention(model, "se_attn_recall")
    assert SpanConfig.of(model.config) == SpanConfig.preset("recall")
    hylora.set_attention(model, "se_attn", preset="published", top_k=2)
    assert SpanConfig.of(model.config) == SpanConfig(top_k=2)


def test_what_a_flag_stood_for_stays_by_way_of_another_attention():
    model = tiny_bamba(attn_implementation="se_attn_recall")
    hylora.set_attention(model, "full")
    hylora.set_attention(model, "se_attn")
    assert SpanConfig.of(model.config) == SpanConfig.preset("recall")


def test_a_model_without_attention_is_refused():
    config = Mamba2Config(
        num_heads=4, head_dim=8, hidden_size=16, state_size=8, num_hidden_layers=2, n_groups=1, vocab_size=32
    )
    with pytest.raises(ValueError, match="no attention layers"):
        hylora.set_attention(Mamba2ForCausalLM(config), "se_attn")


def test_a_model_of_windows_alone_is_refused():
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = MistralConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, sliding_window=8)
    with pytest.raises(ValueError, match="window of its own in every attention layer .*no full attention"):
        hylora.set_attention(MistralForCausalLM(config), "se_attn")


def test_a_model_that_computes_attention_itself_is_refused():
    model = GPTJForCausalLM(GPTJConfig(vocab_size=32, n_embd=16, n_layer=1, n_head=2, rotary_dim=4))
    with pytest.raises(ValueError, match="computes attention itself"):
        hylora.set_attention(model, "se_attn")


def test_recurrent_models_without_layer_types_have_no_attention():
    with pytest.raises(ValueError, match="no attention layers"):
        check_attention(xLSTMConfig(vocab_size=32, hidden_size=64, num_heads=4, num_hidden_layers=2), "se_attn")


def test_options_for_full_attention_are_refused():
    with pytest.raises(ValueError, match="'full' takes no options, but top_k was given"):
        hylora.set_attention(tiny_llama(), "full", top_k=3)


def test_wrong_names_are_met_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'se_attn'"):
        hylora.set_attention(tiny_llama(), "se_atn")


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match="transformers model"):
        hylora.set_attention(torch.nn.Linear(2, 2), "se_attn")


def test_a_peft_model_is_switched_through_its_wrapper():
    import peft

    model = peft.get_peft_model(tiny_llama(), peft.LoraConfig(target_modules=["q_proj"]))
    hylora.set_attention(model, "se_attn", block_size=4, chunk_size=8)
    assert model.config._attn_implementation == "se_attn"


def test_importing_hylora_changes_no_other_model():
    """Logits, masks and the registered default functions are the same before and after the import."""
    script = """
import torch, transformers
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
config = transformers.LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                  num_attention_heads=2, num_key_value_heads=2)
torch.manual_seed(0)
model = transformers.LlamaForCausalLM(config).eval()
ids = torch.arange(12)[None]
before = model(ids).logits
attention, masks = dict(ALL_ATTENTION_FUNCTIONS), dict(ALL_MASK_ATTENTION_FUNCTIONS)
forward = transformers.LlamaForCausalLM.forward
import hylora
assert torch.equal(before, model(ids).logits)
assert forward is transformers.LlamaForCausalLM.forward
for old, new in ((attention, ALL_ATTENTION_FUNCTIONS), (masks, ALL_MASK_ATTENTION_FUNCTIONS)):
    assert all(new[name] is function for name, function in old.items())
    assert set(new) - set(old) == {"se_attn", "se_attn_recall", "sw_attn", "s2_attn"}
torch.manual_seed(0)
again = transformers.LlamaForCausalLM(config).eval()
assert again.config._attn_implementation == "sdpa"
assert torch.equal(before, again(ids).logits)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
