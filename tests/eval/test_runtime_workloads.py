# SPDX-License-Identifier: Apache-2.0
"""What is timed is what a model does: its loss, its gradients, its next tokens, its attention's output."""

from __future__ import annotations

import copy

import peft
import pytest
import torch

import hylora
from hylora.attention import SpanConfig
from hylora_eval.nll import token_nll
from hylora_eval.runtime.workloads import WORKS, AttentionWorkload, ModelWorkload
from hylora_kernels import shifted_sparse_attention, sliding_window_attention, span_attention
from tests.tiny import tiny_bamba, tiny_llama, tiny_qwen2
from tests.tolerances import assert_close

SPAN = SpanConfig(block_size=4, top_k=1, chunk_size=16, window=8)
ATTENTIONS = ["full", "sw_attn", "s2_attn", "se_attn"]
BUILDS = pytest.mark.parametrize("build", [tiny_bamba, tiny_llama], ids=["bamba", "llama"])
CPU = torch.device("cpu")


def drawn(length, batch=1):
    """The tokens that a run of this length reads."""
    return torch.randint(96, (batch, length), generator=torch.Generator().manual_seed(length))


@BUILDS
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_forward_is_the_loss_under_the_attention_asked_for(build, attention):
    model, other = build(), build()
    hylora.set_attention(other, attention, **({} if attention == "full" else SPAN.to_dict()))
    total, count = ModelWorkload(model, SPAN, batch_size=2).prepare("forward", attention, 40)()
    assert not total.requires_grad
    assert_close(total / count, token_nll(other, drawn(40, 2)).mean())


@BUILDS
def test_a_training_step_makes_every_gradient(build, monkeypatch):
    model, other, found = build(), build(), {}
    parameters = dict(model.named_parameters())

    def keep(set_to_none):
        found.update({name: parameter.grad for name, parameter in parameters.items()})

    monkeypatch.setattr(model, "zero_grad", keep)
    ModelWorkload(model, SPAN).prepare("forward+backward", "full", 24)()
    other(input_ids=drawn(24), labels=drawn(24)).loss.backward()
    for name, parameter in other.named_parameters():
        assert_close(found[name], parameter.grad)


def test_a_training_step_leaves_no_gradient():
    model = tiny_llama()
    ModelWorkload(model, SPAN).prepare("forward+backward", "se_attn", 24)()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_step_that_fails_leaves_no_gradient(monkeypatch):
    model = tiny_llama()
    step = ModelWorkload(model, SPAN).prepare("forward+backward", "full", 24)
    monkeypatch.setattr(model.model.layers[0], "forward", lambda *a, **k: 1 / 0)
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    with pytest.raises(ZeroDivisionError):
        step()
    assert model.lm_head.weight.grad is None


@BUILDS
@pytest.mark.parametrize("attention", ["full", "se_attn"])
def test_decoding_goes_on_where_the_prompt_ended(build, attention):
    model = build()
    decode = ModelWorkload(model, SPAN, decode_tokens=5).prepare("decode", attention, 30)
    cache = {"past_key_values": hylora.SpanCache(model.config)} if attention == "se_attn" else {}
    expected = copy.deepcopy(model).generate(
        drawn(30),
        **cache,
        attention_mask=torch.ones(1, 30),
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert decode().tolist() == expected[:, 30:].tolist()


def test_an_adapter_is_trained_alone():
    model = peft.get_peft_model(tiny_llama(), peft.LoraConfig(target_modules=["q_proj"]))
    workload = ModelWorkload(model, SPAN)
    for work in WORKS:
        workload.prepare(work, "se_attn", 20)()
    assert {parameter.requires_grad for parameter in model.parameters()} == {True, False}


@pytest.mark.parametrize("kind", ["llama", "bamba", "qwen2"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_alone_is_that_of_the_kernels(monkeypatch, kind, attention):
    build = {"llama": tiny_llama, "bamba": tiny_bamba, "qwen2": tiny_qwen2}[kind]
    with torch.device("meta"):
        model = build()
    inputs = []
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *a, **k: inputs.append(randn(*a, **k)) or inputs[-1])
    found = AttentionWorkload(model, SPAN, torch.float32, CPU, batch_size=2).prepare("forward", attention, 40)()
    query, key, value = inputs
    assert query.shape == (2, 4, 40, 8) and key.shape == value.shape == (2, 2, 40, 8)
    expected = {
        "full": lambda: sliding_window_attention(query, key, value, window=40, backend="reference"),
        "sw_attn": lambda: sliding_window_attention(query, key, value, window=8, backend="reference"),
        "s2_attn": lambda: shifted_sparse_attention(query, key, value, group=0.25, backend="reference"),
        "se_attn": lambda: span_attention(
            query, key, value, block_size=4, top_k=1, chunk_size=16, backend="reference"
        ),
    }[attention]()
    assert_close(found.transpose(1, 2), expected)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_alone_gives_gradients_and_decodes(attention):
    workload = AttentionWorkload(tiny_llama(), SPAN, torch.float32, CPU)
    gradients = workload.prepare("forward+backward", attention, 40)()
    assert [tuple(gradient.shape) for gradient in gradients] == [(1, 4, 40, 8), (1, 2, 40, 8), (1, 2, 40, 8)]
    assert all(float(gradient.abs().sum()) > 0 for gradient in gradients)
    assert workload.prepare("decode", attention, 40)().shape == (1, 1, 4, 8)


def test_masks_that_are_not_made_alone_are_refused():
    workload = AttentionWorkload(tiny_llama(), SPAN, torch.float32, CPU)
    with pytest.raises(ValueError, match="'eager' cannot be timed alone"):
        workload.prepare("forward", "eager", 8)


def test_a_model_without_attention_is_refused():
    with pytest.raises(ValueError, match="Linear has no attention module"):
        AttentionWorkload(torch.nn.Linear(2, 2), SPAN, torch.float32, CPU)
