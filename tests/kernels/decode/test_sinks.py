# SPDX-License-Identifier: Apache-2.0
"""Decoding with bounded scores, sinks, and values of another size: still the last rows of the attention over all."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout, SpanOptions, span_attention
from hylora_kernels.decode import DecodeState, span_decode
from hylora_kernels.sinks import add_sinks
from hylora_kernels.torch_backend import extend
from hylora_kernels.torch_backend.decode import step
from tests.kernels.decode.stepping import decode, empty_state
from tests.kernels.inputs import random_inputs
from tests.node_counter import NodeCounter
from tests.tolerances import assert_close

OPTIONS = {"block_size": 4, "chunk_size": 12, "top_k": 2, "selection": "token", "summary": "mean_std"}
RULES = {
    "token": OPTIONS,
    "groups": {**OPTIONS, "selection": "causal", "query_group": 4, "summary": "attention"},
    "random": {**OPTIONS, "retrieval": "random"},
}
ALL_RULES = pytest.mark.parametrize("options", RULES.values(), ids=RULES)
SINKS = torch.tensor([0.5, -1.0, 2.0, 3.0], dtype=torch.float64)
SCORES = pytest.mark.parametrize(
    ("softcap", "sinks"), [(1.5, None), (None, SINKS), (1.5, SINKS)], ids=["softcap", "sinks", "both"]
)


@SCORES
@ALL_RULES
def test_steps_are_rows_of_a_prefill(options, softcap, sinks):
    inputs = random_inputs(2, 4, 2, 43)
    expected = span_attention(*inputs, softcap=softcap, sinks=sinks, **options)
    assert_close(decode(inputs, empty_state(inputs, softcap=softcap, **options), sinks=sinks), expected)


@SCORES
@ALL_RULES
@pytest.mark.parametrize("numbers", [1 << 23, 64], ids=["gathered", "pair by pair"])
def test_pieces_are_rows_of_a_prefill(options, softcap, sinks, numbers, monkeypatch):
    """From nothing, within a chunk and across several."""
    monkeypatch.setattr(extend, "_SLICE", numbers)
    inputs = random_inputs(2, 4, 2, 61)
    expected = span_attention(*inputs, softcap=softcap, sinks=sinks, **options)
    state = empty_state(inputs, softcap=softcap, **options)
    pieces = zip(*(x.split([7, 3, 30, 21], dim=2) for x in inputs), strict=True)
    assert_close(torch.cat([span_decode(*piece, state, sinks=sinks) for piece in pieces], dim=2), expected)


@SCORES
@ALL_RULES
def test_steps_whose_shapes_do_not_depend_on_lengths(options, softcap, sinks):
    """As a GPU takes them."""
    options = SpanOptions(**options)
    inputs = random_inputs(2, 4, 2, 30)
    layout = SequenceLayout(2, 17, ((0, 0, 17), (1, 9, 8)))
    prompt = [x[:, :, :17] for x in inputs]
    one, other = (
        DecodeState.from_prefill(*prompt, options, layout=layout, capacity=32, softcap=softcap) for _ in range(2)
    )
    for at in range(17, 30):
        token = [x[:, :, at : at + 1] for x in inputs]
        output, _ = add_sinks(*step(*token, one.tensors(), options, one.scoring), sinks)
        assert_close(output, span_decode(*token, other, sinks=sinks))


@SCORES
def test_the_definition_and_padding(softcap, sinks):
    inputs = random_inputs(2, 4, 2, 26)
    layout = SequenceLayout(2, 26, ((0, 0, 26), (1, 5, 19)))
    prompts = [x.clone() for x in inputs]
    for x in prompts:
        x[1, :, :5] = x[1, :, 24:] = float("nan")
    expected = span_attention(*inputs, layout=layout, softcap=softcap, sinks=sinks, **OPTIONS)
    for backend in ("torch", "reference"):
        state = empty_state(inputs, softcap=softcap, keep_queries=True, **OPTIONS)
        output = span_decode(*prompts, state, layout=layout, sinks=sinks, backend=backend)
        assert_close(output, expected)
        assert not output[1, :, :5].any() and not output[1, :, 24:].any()


@pytest.mark.parametrize("value_dim", [5, 11], ids=["smaller", "larger"])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_values_of_another_size(backend, value_dim):
    query, key, _ = random_inputs(2, 4, 2, 30)
    value = random_inputs(2, 4, 2, 30, value_dim, seed=2)[2]
    tokens = query, key, value
    expected = span_attention(*tokens, sinks=SINKS, **OPTIONS)
    state = empty_state(tokens, value_dim=value_dim, keep_queries=True, **OPTIONS)
    steps = decode(tokens, state, last=9, sinks=SINKS, backend=backend)
    assert_close(steps, expected[:, :, :9])
    state = DecodeState.from_prefill(*(x[:, :, :17] for x in tokens), keep_queries=True, **OPTIONS)
    assert (state.head_dim, state.value_dim) == (8, value_dim)
    assert_close(decode(tokens, state, first=17, sinks=SINKS, backend=backend), expected[:, :, 17:])


def test_compiled_steps_take_sinks():
    inputs = random_inputs(1, 4, 2, 20)
    compiled, eager = (empty_state(inputs, capacity=20, softcap=1.5, **OPTIONS) for _ in range(2))
    torch._dynamo.reset()
    counter = NodeCounter()
    attend = torch.compile(lambda *x: span_decode(*x, compiled, sinks=SINKS), fullgraph=True, backend=counter)
    outputs = [attend(*token) for token in zip(*(x.split(1, dim=2) for x in inputs), strict=True)]
    assert_close(torch.cat(outputs, dim=2), decode(inputs, eager, sinks=SINKS))


def test_what_does_not_fit_is_refused():
    token = random_inputs(2, 4, 2, 1)
    state = empty_state(token, **OPTIONS)
    with pytest.raises(
        ValueError, match=r"sinks \(2,\) of torch.float64 must be one floating logit for each of the 4"
    ):
        span_decode(*token, state, sinks=SINKS[:2])
    with pytest.raises(ValueError, match=r"value \(2, 2, 1, 5\) must be .* state, .*\[2, 2, n, 8\]; .*value_dim"):
        span_decode(*token[:2], token[2][..., :5], state)
    assert state.held == 0 and not state.lengths.any()
    with pytest.raises(ValueError, match="softcap=0 must be a positive number"):
        empty_state(token, softcap=0)
    with pytest.raises(ValueError, match="summary='attention' compares queries, of 8 .* with values of 5"):
        empty_state(token, value_dim=5)
