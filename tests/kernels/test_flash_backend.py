# SPDX-License-Identifier: Apache-2.0
"""The path of variable-length flash calls: its structure on plain operations, its calls on tensors without memory."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout, flash_backend, reference
from hylora_kernels.flash_backend import retrieved
from hylora_kernels.options import SpanOptions
from tests.kernels.inputs import output_and_gradients, random_inputs
from tests.tolerances import assert_close

SCALE = 0.3
HEADS = pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (3, 1), (2, 1)])
LAYOUTS = {
    "dense": SequenceLayout.dense(2, 50),
    "ragged": SequenceLayout(3, 50, ((0, 10, 40), (2, 1, 16), (2, 17, 1), (2, 18, 30))),
    "empty": SequenceLayout(2, 50, ()),
}
LAYOUT = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
SELECTIONS = [("chunk", 1), ("causal", 1), ("causal", 4), ("causal", 16)]


def span_options(selection="chunk", query_group=1, retrieval="relevance", top_k=3):
    return SpanOptions(4, top_k, 16, selection, query_group, retrieval, "attention", 0)


def expected(function, inputs, layout, grad, *settings):
    def call(query, key, value):
        return function(query, key, value, layout, *settings, SCALE)

    return output_and_gradients(call, inputs, grad)


def inputs_and_gradient(layout, heads, kv_heads):
    inputs = random_inputs(layout.batch, heads, kv_heads, layout.length)
    return inputs, random_inputs(layout.batch, heads, kv_heads, layout.length, seed=1)[0]


def assert_all_close(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)


@HEADS
@LAYOUT
@pytest.mark.parametrize(("selection", "query_group"), SELECTIONS)
def test_span_attention_agrees_with_the_reference(layout, selection, query_group, heads, kv_heads, monkeypatch):
    monkeypatch.setattr(retrieved, "_GATHER", 300)  # several slices
    monkeypatch.setattr(retrieved, "_RUNS", 5)
    retrieved._slices.cache_clear()
    options = span_options(selection, query_group)
    inputs, grad = inputs_and_gradient(layout, heads, kv_heads)
    output, lse, blocks = flash_backend.span_forward(*inputs, layout, options, SCALE)
    grads = flash_backend.span_backward(grad, *inputs, output, lse, blocks, layout, options, SCALE)
    assert_all_close([output, *grads], expected(reference.span_attention, inputs, layout, grad, options))
    chosen = reference.select_blocks(*inputs, layout, options, SCALE)
    for found, of_sequence in zip(blocks.split([b.shape[1] for b in chosen], dim=1), chosen, strict=True):
        assert torch.equal(found, of_sequence.int())
    retrieved._slices.cache_clear()


@pytest.mark.parametrize(("retrieval", "top_k"), [("none", 3), ("random", 3), ("relevance", 0), ("relevance", 50)])
def test_other_retrievals_agree_with_the_reference(retrieval, top_k):
    options, layout = span_options(retrieval=retrieval, top_k=top_k), LAYOUTS["ragged"]
    inputs, grad = inputs_and_gradient(layout, 4, 2)
    output, lse, blocks = flash_backend.span_forward(*inputs, layout, options, SCALE)
    grads = flash_backend.span_backward(grad, *inputs, output, lse, blocks, layout, options, SCALE)
    assert_all_close([output, *grads], expected(reference.span_attention, inputs, layout, grad, options))


@HEADS
@LAYOUT
@pytest.mark.parametrize("window", [1, 7, 16, 60])
def test_sliding_window_agrees_with_the_reference(layout, window, heads, kv_heads):
    inputs, grad = inputs_and_gradient(layout, heads, kv_heads)
    output, lse = flash_backend.sliding_window_forward(*inputs, layout, window, SCALE)
    grads = flash_backend.sliding_window_backward(grad, *inputs, output, lse, layout, window, SCALE)
    assert_all_close([output, *grads], expected(reference.sliding_window_attention, inputs, layout, grad, window))


@LAYOUT
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (3, 1), (1, 1), (6, 2), (10, 2)])
@pytest.mark.parametrize("group", [0.25, 1.0, 1, 7, 60])
def test_shifted_sparse_attention_agrees_with_the_reference(layout, group, heads, kv_heads):
    inputs, grad = inputs_and_gradient(layout, heads, kv_heads)
    output, lse = flash_backend.shifted_sparse_forward(*inputs, layout, group, SCALE)
    grads = flash_backend.shifted_sparse_backward(grad, *inputs, output, lse, layout, group, SCALE)
    assert_all_close([output, *grads], expected(reference.shifted_sparse_attention, inputs, layout, grad, group))


@LAYOUT
@pytest.mark.parametrize("attention", ["span", "sliding_window", "shifted_sparse"])
def test_calls_of_flash_attention_are_well_formed(layout, attention):
    """torch's shape functions of the operators accept the calls; no GPU is needed for that."""
    settings = {"span": span_options(), "sliding_window": 7, "shifted_sparse": 0.25}[attention]
    forward, backward = (getattr(flash_backend, f"{attention}_{way}") for way in ("forward", "backward"))
    shapes = [(layout.batch, heads, layout.length, 64) for heads in (6, 2, 2)]
    inputs = [torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in shapes]
    output, *kept = forward(*inputs, layout, settings, SCALE)
    assert (output.shape, output.dtype) == (inputs[0].shape, torch.bfloat16)
    assert kept[0].shape == inputs[0].shape[:3]
    assert kept[0].dtype == torch.float32
    grads = backward(torch.empty_like(output), *inputs, output, *kept, layout, settings, SCALE)
    assert [(x.shape, x.dtype) for x in grads] == [(x.shape, x.dtype) for x in inputs]


@pytest.mark.gpu
@LAYOUT
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["span", "sliding_window", "shifted_sparse"])
def test_gpu_agrees_with_plain_operations(layout, attention, dtype):
    settings = {"span": span_options(retrieval="random"), "sliding_window": 7, "shifted_sparse": 0.25}[attention]
    forward, backward = (getattr(flash_backend, f"{attention}_{way}") for way in ("forward", "backward"))
    tensors = [
        x.to(dtype)
        for seed, heads in enumerate((6, 6, 2, 2))
        for x in random_inputs(layout.batch, heads, heads, layout.length, 64, seed=seed)[:1]
    ]
    found = []
    for device in ("cpu", "cuda"):
        grad, *inputs = (x.to(device) for x in tensors)
        output, *kept = forward(*inputs, layout, settings, SCALE)
        grads = backward(grad, *inputs, output, *kept, layout, settings, SCALE)
        found.append([x.cpu() for x in (output, *grads)])
    for a, e in zip(*found, strict=True):
        assert (a.double() - e.double()).norm() <= 2e-2 * e.double().norm()
