# SPDX-License-Identifier: Apache-2.0
"""What decoding keeps of each sequence: keys and values, and what the choice of blocks needs."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Union

import torch
from torch import Tensor
from torch.nn.functional import pad

from .layout import SequenceLayout
from .options import (
    SpanOptions,
    accumulation_dtype,
    check_inputs,
    check_integer,
    follow_autocast,
    positive_scale,
    span_options,
)
from .selection import summarize_blocks


class DecodeTensors(NamedTuple):
    """What a decoding step reads and changes; `DecodeState` says what it is."""

    key_cache: Tensor
    value_cache: Tensor
    queries: Tensor
    summaries: Tensor
    unit_sum: Tensor
    previous_sum: Tensor
    lengths: Tensor


class DecodeState:
    """The sequences of a batch so far, one per row, each stored from its own first token on.

    Make one with `empty` or `from_prefill`; `span_decode` appends to it. What is above a row's length has no meaning.
    With S = block_size, and sums and summaries in at least float32:

    Attributes:
        key: `[B, Hkv, capacity, D]`; capacity is a multiple of S.
        value: the same shape.
        queries: `[B, Hq, slots, D]`, the query of position p in slot p % slots. Slots are S, the block in progress, or
            capacity, if all queries are kept.
        summaries: `[B, Hkv, capacity // S, D]`, of the complete blocks.
        unit_sum: `[B, Hkv, D]`, the queries of the unit in progress, summed over tokens and the heads of a group.
        previous_sum: the same shape, those of the unit before.
        lengths: `[B]` int32, tokens held by each row.
        held: tokens in the longest row, as far as the host knows. Replays of a CUDA graph pass it by.
        options: the `SpanOptions`.
        scale: factor of the scores.
    """

    def __init__(
        self,
        batch: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        capacity: int,
        options: SpanOptions,
        scale: Optional[float],
        keep_queries: bool,
        dtype: Optional[torch.dtype],
        device: Union[torch.device, str, None],
    ):
        check_integer("capacity", capacity, minimum=1)
        if kv_heads == 0 or heads % kv_heads:
            raise ValueError(f"{heads} query heads cannot be shared out evenly among {kv_heads} key heads")
        self.options, self.held = options, 0
        capacity = _whole_blocks(capacity, options)
        like = torch.empty(0, dtype=dtype, device=device)
        wide = accumulation_dtype(like.dtype)
        # Zeros, since masked scores are finite only if what lies under them is.
        self.key = like.new_zeros(batch, kv_heads, capacity, head_dim)
        self.value = torch.zeros_like(self.key)
        self.queries = like.new_zeros(batch, heads, capacity if keep_queries else options.block_size, head_dim)
        self.summaries = like.new_zeros(batch, kv_heads, capacity // options.block_size, head_dim, dtype=wide)
        self.unit_sum = like.new_zeros(batch, kv_heads, head_dim, dtype=wide)
        self.previous_sum = torch.zeros_like(self.unit_sum)
        self.lengths = like.new_zeros(batch, dtype=torch.int32)
        self.keeps_queries = keep_queries
        self.scale = positive_scale(self.key, scale)

    @classmethod
    def empty(
        cls,
        batch: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        capacity: int,
        options: Optional[SpanOptions] = None,
        *,
        scale: Optional[float] = None,
        keep_queries: bool = False,
        dtype: Optional[torch.dtype] = None,
        device: Union[torch.device, str, None] = None,
        **changes: Any,
    ) -> DecodeState:
        """Sequences without a token yet.

        Args:
            batch: number of rows.
            heads: query heads.
            kv_heads: key and value heads; must divide `heads`.
            head_dim: size of a head.
            capacity: tokens per row for which there is room; it grows when they run out.
            options: as in `span_attention`.
            scale: factor on the scores; None means 1 / sqrt(head_dim).
            keep_queries: keep the queries of all tokens, which `backend="reference"` needs.
            dtype: of queries, keys and values; None means torch's default.
            device: likewise.
            **changes: as in `span_attention`.

        Returns:
            The state.

        Raises:
            ValueError: a number out of range.
        """
        sizes = (batch, heads, kv_heads, head_dim, capacity)
        return cls(*sizes, span_options(options, changes), scale, keep_queries, dtype, device)

    @classmethod
    @torch.no_grad()
    def from_prefill(
        cls,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        options: Optional[SpanOptions] = None,
        *,
        layout: Union[SequenceLayout, Tensor, None] = None,
        capacity: Optional[int] = None,
        scale: Optional[float] = None,
        keep_queries: bool = False,
        **changes: Any,
    ) -> DecodeState:
        """The state after these tokens, which are copied into it.

        Args:
            query: `[B, Hq, L, D]`, as handed to `span_attention`.
            key: `[B, Hkv, L, D]`, likewise.
            value: `[B, Hkv, L, D]`, likewise.
            options: as in `span_attention`.
            layout: the sequences, at most one per row; None means every row is one, without padding.
            capacity: as in `empty`; None means twice L.
            scale: as in `empty`.
            keep_queries: as in `empty`.
            **changes: as in `span_attention`.

        Returns:
            The state.

        Raises:
            ValueError: a row with several sequences, a capacity below the longest sequence, or as `span_attention`.
        """
        options = span_options(options, changes)
        query, key, value = follow_autocast(query, key, value)
        check_inputs(query, key, value, layout)
        layout = SequenceLayout.of(query, layout)
        rows = [row for row, _, _ in layout.sequences]
        packed = next((row for row, after in zip(rows, rows[1:]) if row == after), None)
        if packed is not None:
            raise ValueError(
                f"row {packed} holds {rows.count(packed)} packed sequences; decoding appends to one sequence per row, "
                "so give each a row of its own"
            )
        if capacity is None:
            capacity = max(1, 2 * layout.length)
        elif capacity < layout.longest:
            raise ValueError(f"capacity={capacity} is less than the {layout.longest} tokens of the longest sequence")
        batch, heads, _, head_dim = query.shape
        sizes = (batch, heads, key.shape[1], head_dim, capacity)
        state = cls(*sizes, options, scale, keep_queries, query.dtype, query.device)
        for rows, start, length in layout.segments():
            state._take(rows, *(x[rows, :, start : start + length] for x in (query, key, value)))
        state.held = layout.longest
        return state

    @property
    def capacity(self) -> int:
        """Tokens per row for which there is room."""
        return self.key.shape[2]

    @torch.no_grad()
    def reserve(self, tokens: int):
        """Make room for so many more tokens in every row, at least doubling what there is if there is not enough.

        It looks up on the device how long the rows are, and waits for that. New memory means new addresses: reserve
        before a CUDA graph is captured.

        Args:
            tokens: how many.

        Raises:
            ValueError: a negative number.
        """
        check_integer("tokens", tokens, minimum=0)
        self.held = int(self.lengths.max())
        if self.held + tokens > self.capacity:
            self._grow(max(self.held + tokens, 2 * self.capacity))

    @torch.no_grad()
    def reorder(self, rows: Tensor):
        """Let every row go on from another one, in place: a step of beam search.

        Args:
            rows: `[B]` integers, for each row the one whose tokens it takes over.

        Raises:
            ValueError: another number of rows than the state has.
        """
        if rows.shape != self.lengths.shape:
            raise ValueError(f"rows of shape {tuple(rows.shape)} must name one row for each of {len(self.lengths)}")
        for x in self.tensors():
            x.copy_(x[rows])

    def tensors(self) -> DecodeTensors:
        """All tensors."""
        sums = (self.unit_sum, self.previous_sum, self.lengths)
        return DecodeTensors(self.key, self.value, self.queries, self.summaries, *sums)

    def count_token(self):
        """Expect one more token in every row, and make room for it; the device is not asked."""
        if self.held == self.capacity:
            self._grow(2 * self.capacity)
        self.held += 1

    def _take(self, rows: slice, query: Tensor, key: Tensor, value: Tensor):
        """Store the tokens of rows that are still empty."""
        options, (heads, length) = self.options, key.shape[1:3]
        self.lengths[rows] = length
        self.key[rows, :, :length] = key
        self.value[rows, :, :length] = value
        kept = length if self.keeps_queries else length % options.block_size
        self.queries[rows, :, :kept] = query[:, :, length - kept :]
        blocks = length // options.block_size
        if blocks and options.retrieves and options.retrieval == "relevance":
            self.summaries[rows, :, :blocks] = summarize_blocks(query, key, value, blocks, options, self.scale)
        opened = (length - 1) // options.unit_size * options.unit_size
        before = max(0, opened - options.unit_size)
        for total, tokens in ((self.unit_sum, query[:, :, opened:]), (self.previous_sum, query[:, :, before:opened])):
            total[rows] = tokens.sum(dim=2, dtype=total.dtype).unflatten(1, (heads, -1)).sum(dim=2)

    def _grow(self, capacity: int):
        more = _whole_blocks(capacity, self.options) - self.capacity
        self.key, self.value = (pad(x, (0, 0, 0, more)) for x in (self.key, self.value))
        self.summaries = pad(self.summaries, (0, 0, 0, more // self.options.block_size))
        if self.keeps_queries:
            self.queries = pad(self.queries, (0, 0, 0, more))


def _whole_blocks(capacity: int, options: SpanOptions) -> int:
    return -(-capacity // options.block_size) * options.block_size
