# SPDX-License-Identifier: Apache-2.0
"""Decoder and head, put together by hand, give the model's own logits, or the model is refused."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    HyperCLOVAXConfig,
    HyperCLOVAXForCausalLM,
)

import hylora
from hylora.language.head import LogitTransform, decoder_and_head, verify_head
from tests.tiny import tiny_bamba, tiny_llama

IDS = torch.arange(24).reshape(2, 12) * 5 % 96


def small(model_class, config_class, **fields):
    config = config_class(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **fields,
    )
    torch.manual_seed(0)
    return model_class(config).eval()


def logits_by_parts(model):
    parts = decoder_and_head(model)
    return parts.logits(parts.decoder(input_ids=IDS, use_cache=False).last_hidden_state)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: tiny_bamba(), id="bamba"),
        pytest.param(lambda: tiny_bamba(tie_word_embeddings=True), id="bamba-tied"),
        pytest.param(lambda: tiny_llama(), id="llama"),
        pytest.param(lambda: small(GraniteForCausalLM, GraniteConfig, logits_scaling=8.0), id="granite-divisor"),
        pytest.param(lambda: small(CohereForCausalLM, CohereConfig, logit_scale=0.1), id="cohere-factor"),
        pytest.param(
            lambda: small(Gemma2ForCausalLM, Gemma2Config, head_dim=8, final_logit_softcapping=2.0),
            id="gemma2-softcap",
        ),
    ],
)
@torch.no_grad()
def test_parts_give_the_models_logits(model):
    model = model()
    verify_head(model, IDS)
    torch.testing.assert_close(logits_by_parts(model), model(IDS).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_bfloat16_logits_come_in_float32():
    model = tiny_llama(dtype=torch.bfloat16)
    verify_head(model, IDS)
    assert logits_by_parts(model).dtype == torch.float32


def test_a_transform_the_config_does_not_tell_is_refused():
    model = small(HyperCLOVAXForCausalLM, HyperCLOVAXConfig, logits_scaling=8.0)  # a factor under Granite's name
    with pytest.raises(ValueError, match=r"HyperCLOVAXForCausalLM .* not supported"):
        verify_head(model, IDS)


def test_logits_that_are_not_finite_are_told_as_such():
    model = tiny_bamba()
    model.get_parameter("model.layers.0.mamba.D").data.view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match="logits of BambaForCausalLM must be finite"):
        verify_head(model, IDS)


def test_transform_follows_its_formula():
    x = torch.tensor([-30.0, 0.0, 5.0])
    torch.testing.assert_close(LogitTransform(scale=0.5, softcap=4.0)(x), 4 * torch.tanh(0.5 * x / 4))


@torch.no_grad()
def test_adapters_and_a_trained_head_are_seen_and_can_be_switched_off():
    base = tiny_llama()
    before = logits_by_parts(base)
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], init_lora_weights=False)
    model = peft.get_peft_model(base, config).eval()
    decoder_and_head(model).weight.add_(0.5 * torch.randn_like(decoder_and_head(model).weight))
    verify_head(model, IDS)
    assert not torch.allclose(logits_by_parts(model), before, atol=1e-2)
    with model.disable_adapter():
        torch.testing.assert_close(logits_by_parts(model), before)


def test_an_adapter_on_the_head_is_refused_until_merged():
    model = peft.get_peft_model(tiny_llama(), peft.LoraConfig(target_modules=["lm_head"], init_lora_weights=False))
    with pytest.raises(ValueError, match=r"hylora\.merge_adapter"):
        decoder_and_head(model)
    verify_head(hylora.merge_adapter(model), IDS)


def test_a_model_without_a_head_is_refused():
    with pytest.raises(ValueError, match="AutoModelForCausalLM"):
        decoder_and_head(tiny_llama().model)
    with pytest.raises(ValueError, match="AutoModelForCausalLM"):
        decoder_and_head(nn.Linear(2, 2))


def test_a_quantised_head_is_refused():
    model = tiny_llama()
    model.lm_head.weight = nn.Parameter(torch.zeros(96, 32, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"torch.int8 .* quantisation"):
        decoder_and_head(model)


def test_logits_are_differentiable():
    model = tiny_llama().double()
    logits_by_parts(model).sum().backward()
    assert model.lm_head.weight.grad.abs().sum() > 0
