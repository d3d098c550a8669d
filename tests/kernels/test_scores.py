# SPDX-License-Identifier: Apache-2.0
"""What an attention may do to its scores besides scaling them: a bound (softcap) and sinks. And values of other sizes."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import (
    SequenceLayout,
    block_attention,
    select_blocks,
    shifted_sparse_attention,
    sliding_window_attention,
    span_attention,
)
from hylora_kernels.plain import masked_attention
from tests.kernels.inputs import output_and_gradients, random_inputs
from tests.node_counter import NodeCounter
from tests.tolerances import assert_close

SPAN = {"block_size": 4, "top_k": 2, "chunk_size": 16}
FUNCTIONS = {
    "chunk": (span_attention, SPAN),
    "token": (span_attention, {**SPAN, "selection": "token", "summary": "mean_std"}),
    "one chunk": (span_attention, {"chunk_size": 64}),
    "window": (sliding_window_attention, {"window": 7}),
    "shifted": (shifted_sparse_attention, {"group": 0.3}),
}
ALL = pytest.mark.parametrize(("function", "options"), FUNCTIONS.values(), ids=FUNCTIONS)
LAYOUTS = {
    "dense": None,
    "padded and packed": SequenceLayout(2, 37, ((0, 3, 30), (1, 0, 20), (1, 20, 16))),
}
SCORES = pytest.mark.parametrize(
    ("softcap", "with_sinks"), [(1.5, False), (None, True), (1.5, True)], ids=["softcap", "sinks", "both"]
)


def inputs(sinks=True, dtype=torch.float64, length=37, heads=4, kv_heads=2, value_dim=8):
    """Query, key and value, and a logit per head, some of which weigh nothing and others nearly all."""
    query, key, _ = random_inputs(2, heads, kv_heads, length, 8, dtype)
    value = random_inputs(2, heads, kv_heads, length, value_dim, dtype, seed=2)[2]
    return (query, key, value, *([torch.linspace(-2, 4, heads, dtype=torch.float64).to(dtype)] if sinks else []))


def with_sinks(function, **options):
    """The function of query, key, value and, if given, sinks."""
    return lambda query, key, value, sinks=None: function(query, key, value, sinks=sinks, **options)


def compare(actual, expected, dtype=None):
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, dtype)


def explicit(query, key, value, mask, scale, softcap, sinks):
    """Attention head by head, as the formulas have it."""
    outputs = []
    for head in range(query.shape[1]):
        of_group = head * key.shape[1] // query.shape[1]
        scores = scale * query[:, head] @ key[:, of_group].mT
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        weights = torch.exp(scores) * mask[:, head % mask.shape[1]]
        total = weights.sum(dim=-1, keepdim=True)
        if sinks is not None:
            total = total + torch.exp(sinks[head])
        outputs.append(weights / total.clamp(min=1e-300) @ value[:, of_group])
    return torch.stack(outputs, dim=1)


@SCORES
@pytest.mark.parametrize("masks", [1, 4])
def test_attention_under_a_mask_is_its_formula(masks, softcap, with_sinks):
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(2, masks, 9, 37, generator=generator) < 0.4
    mask[1, :, 4] = False  # a query that sees nothing
    query, key, value, *sinks = inputs(with_sinks, value_dim=5)
    leaves = query[:, :, :9], key, value, *sinks

    def attend(function):
        return lambda q, k, v, s=None: function(q, k, v, mask, 0.3, softcap, s)

    expected = output_and_gradients(attend(explicit), leaves)
    compare(output_and_gradients(attend(masked_attention), leaves), expected)
    assert not expected[0][1, :, 4].any()
    everything = torch.ones(1, 1, 9, 37, dtype=torch.bool)
    without_mask = masked_attention(*leaves[:3], None, 0.3, softcap, *sinks)
    assert_close(without_mask, explicit(*leaves[:3], everything, 0.3, softcap, *(sinks or [None])))


def test_attention_under_a_mask_alone_is_torchs_own():
    query, key, value = inputs(sinks=False)
    mask = torch.ones(37, 37, dtype=torch.bool).tril()[None, None]
    causal = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=0.3, enable_gqa=True
    )
    assert_close(masked_attention(query, key, value, mask, 0.3), causal)


@ALL
@SCORES
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("kv_heads", [2, 1])
def test_the_torch_backend_gives_what_the_definition_does(function, options, softcap, with_sinks, layout, kv_heads):
    tensors = inputs(with_sinks, kv_heads=kv_heads)
    settings = {**options, "softcap": softcap, "layout": layout, "scale": 0.6}
    expected = output_and_gradients(globals()["with_sinks"](function, backend="reference", **settings), tensors)
    compare(output_and_gradients(globals()["with_sinks"](function, backend="torch", **settings), tensors), expected)
