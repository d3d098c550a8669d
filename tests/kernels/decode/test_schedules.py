# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to a state, new tokens get what the definition gives them from their row's tokens so far."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hylora_kernels import SequenceLayout, SpanOptions, span_attention
from hylora_kernels.decode import DecodeState, span_decode
from hylora_kernels.options import SUMMARIES, SUMMARY_DTYPES
from hylora_kernels.torch_backend import extend
from tests.tolerances import assert_close

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 4
CHOICES = [
    {"selection": "chunk"},
    {"selection": "token"},
    {"selection": "causal", "query_group": 2},
    {"selection": "token", "block_size": 4},
]
RULES = [{"summary": summary} for summary in SUMMARIES] + [{"retrieval": "random"}, {"retrieval": "none"}]


class Rows:
    """A state, and beside it all tokens of each row, from which everything is computed anew."""

    def __init__(self, rows: int, options: SpanOptions, offload: bool):
        self.options = options
        sizes = (rows, HEADS, KV_HEADS, HEAD_DIM, 1)
        self.state = DecodeState(*sizes, options, offload=offload, dtype=torch.float64)
        self.generator = torch.Generator().manual_seed(0)
        self.tokens = [self.new(0) for _ in range(rows)]

    def new(self, length: int) -> list[torch.Tensor]:
        """Query, key and value of so many tokens; of small integers, so that there are ties, where these are exact."""
        shapes = [(heads, length, HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS)]
        tokens = [torch.randn(shape, generator=self.generator, dtype=torch.float64) for shape in shapes]
        return [x.round() for x in tokens] if self.options.summary in ("mean_key", "min_max") else tokens

    def feed(self, lengths: list[int], starts: list[int], width: int):
        """So many tokens for each row, at these places of a grid whose other places hold NaN."""
        grid = [torch.full((len(lengths), *x.shape), torch.nan, dtype=x.dtype) for x in self.new(width)]
        new = list(map(self.new, lengths))
        for row, (length, start) in enumerate(zip(lengths, starts, strict=True)):
            for x, tokens in zip(grid, new[row], strict=True):
                x[row, :, start : start + length] = tokens
        places = zip(range(len(lengths)), starts, lengths, strict=True)
        layout = SequenceLayout(len(lengths), width, tuple(place for place in places if place[2]))
        output = span_decode(*grid, self.state, layout=None if layout.is_dense else layout)
        for row, (length, start) in enumerate(zip(lengths, starts, strict=True)):
            self.tokens[row] = [torch.cat(pair, dim=1) for pair in zip(self.tokens[row], new[row], strict=True)]
            expected = torch.zeros_like(output[row])
            if length:
                so_far = [x[None] for x in self.tokens[row]]
                attended = span_attention(*so_far, self.options, backend="reference")
                expected[:, start : start + length] = attended[0, :, -length:]
            assert_close(output[row], expected)
        self.check()

    def crop(self, lengths: list[int]):
        try:
            self.state.crop(torch.tensor(lengths))
        except ValueError as refusal:
            assert "selection='token'" in str(refusal) or "summary='attention'" in str(refusal)
        else:
            self.tokens = [[x[:, :n] for x in tokens] for tokens, n in zip(self.tokens, lengths, strict=True)]
        self.check()

    def reorder(self, rows: list[int]):
        self.state.reorder(torch.tensor(rows))
        self.tokens = [self.tokens[row] for row in rows]
        self.check()

    def check(self):
        lengths = [tokens[0].shape[1] for tokens in self.tokens]
        assert self.state.lengths.tolist() == lengths
        assert self.state.held == max(lengths) <= self.state.capacity


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(CHOICES), st.sampled_from(RULES), st.booleans(), st.sampled_from([1 << 6, 1 << 20]))
def test_any_schedule(data, choice, rule, offload, at_a_time):
    sizes = {"block_size": 2, "chunk_size": 6, "top_k": 2, "representatives": 1}
    options = SpanOptions(**{**sizes, **choice, **rule}, summary_dtype=data.draw(st.sampled_from(SUMMARY_DTYPES)))
    if options.pools_scores and not options.chooses_per_token:
        options = replace(options, selection="token")
    with mock.patch.object(extend, "_SLICE", at_a_time):
        follow(data, Rows(data.draw(st.integers(1, 3)), options, offload))


def follow(data, rows: Rows):
    """Draw a schedule and follow it."""
    steps = st.sampled_from(["step", "piece", "padded", "crop", "reorder", "repeat", "reset"])
    for what in data.draw(st.lists(steps, min_size=2, max_size=7)):
        count = len(rows.tokens)
        if what == "step":
            rows.feed([1] * count, [0] * count, 1)
        elif what == "piece":
            width = data.draw(st.integers(1, 14))
            rows.feed([width] * count, [0] * count, width)
        elif what == "padded":
            width = data.draw(st.integers(1, 14))
            lengths = [data.draw(st.integers(0, width)) for _ in range(count)]
            rows.feed(lengths, [data.draw(st.integers(0, width - n)) for n in lengths], width)
        elif what == "crop":
            rows.crop([data.draw(st.integers(0, tokens[0].shape[1])) for tokens in rows.tokens])
        elif what == "reorder":
            rows.reorder(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=3)))
        elif what == "repeat":
            rows.state.reorder(torch.arange(len(rows.state.lengths)).repeat_interleave(2))
            rows.tokens = [tokens for tokens in rows.tokens for _ in range(2)]
            rows.reorder(list(range(min(4, 2 * count))))
        else:
            rows.state.reset()
            rows.tokens = [rows.new(0) for _ in rows.tokens]


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("summary", sorted(set(SUMMARIES) - {"attention"}))
def test_tokens_that_choose_by_themselves_can_be_forgotten_anywhere(summary, offload):
    options = SpanOptions(block_size=4, chunk_size=8, top_k=2, selection="token", summary=summary)
    rows = Rows(2, options, offload)
    rows.feed([30, 21], [0, 9], 30)
    for lengths in ([29, 21], [26, 20], [17, 16], [3, 0]):
        rows.crop(lengths)
        assert rows.state.lengths.tolist() == lengths
        rows.feed([7, 7], [0, 0], 7)
        rows.crop(lengths)


def test_a_thousand_tokens_take_the_room_they_need():
    options = SpanOptions(block_size=4, chunk_size=16, top_k=2, selection="token", summary="mean_std")
    state = DecodeState(1, HEADS, KV_HEADS, HEAD_DIM, 1, options, dtype=torch.float64)
    rows = Rows(1, options, offload=False)
    tokens = rows.new(1000)
    outputs = [span_decode(*(x[None, :, at : at + 1] for x in tokens), state) for at in range(1000)]
    expected = span_attention(*(x[None] for x in tokens), options, backend="torch")
    assert_close(torch.cat(outputs, dim=2), expected)
    number = 8 * KV_HEADS * HEAD_DIM
    held = state.bytes_held()
    assert 1000 <= state.capacity < 1000 * 5 / 4
    assert held.cache == 2 * number * state.capacity
    assert held.rest == 2 * number * state.capacity // 4 + state.lengths.nbytes
