# SPDX-License-Identifier: Apache-2.0
"""The state of decoding: the sequences of a batch so far."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor

from .inputs import (
    accumulation_dtype,
    check_comparable,
    check_inputs,
    follow_autocast,
    resize_heads,
    summary_dtype,
)
from .kept import DecodeTensors, store
from .layout import SequenceLayout
from .options import SpanOptions, check_integer, span_options, summary_width
from .scoring import Scoring


class HeldBytes(NamedTuple):
    """Memory in bytes, room for tokens to come included: of keys and values, and of all else."""

    cache: int
    rest: int


class DecodeState:
    """The sequences of a batch so far, one per row, each stored from its own first token on.

    Make one without tokens, or with `from_prefill`; `span_decode` appends to it. What is above a row's length has no
    meaning. With S = block_size, M = chunk_size, W numbers in a block's summary, and D the larger of the sizes of key
    heads and of value heads, the others followed by zeros:

    Attributes:
        key_cache: `[B, Hkv, capacity, D]`; capacity is a multiple of S.
        value_cache: the same shape.
        chunk_key: `[B, Hkv, slots, D]`, of the chunk in progress, position p in slot p % M. Slots are M where
            `offload` keeps the caches in the host's memory, else 0.
        chunk_value: the same shape.
        queries: `[B, Hq, slots, D]`, the query of position p in slot p % slots. Slots are S, the block in progress, if
            summaries are made with queries; capacity, if all are kept; else 0.
        summaries: `[B, Hkv, capacity // S, W]`, of the complete blocks; bfloat16 if the options ask for it, else in at
            least float32.
        sums: `[B, kinds, Hkv, W]` in at least float32, features of queries summed over a unit's tokens and a group's
            heads: of the unit in progress, and of the unit before if that one chooses. Where each token chooses, kinds
            is 0.
        lengths: `[B]` int32, tokens held by each row.
        held: tokens in the longest row, as far as the host knows. Replays of a CUDA graph pass it by.
        options: the `SpanOptions`.
        scoring: scale and softcap of the scores.
        head_dim: size of a head of queries and keys.
        value_dim: size of a head of values.
    """

    def __init__(
        self,
        batch: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        capacity: int,
        options: Optional[SpanOptions] = None,
        *,
        scale: Optional[float] = None,
        softcap: Optional[float] = None,
        value_dim: Optional[int] = None,
        keep_queries: bool = False,
        offload: bool = False,
        dtype: Optional[torch.dtype] = None,
        device: Union[torch.device, str, None] = None,
        **changes: Any,
    ):
        """Sequences without a token yet.

        Args:
            batch: number of rows.
            heads: query heads.
            kv_heads: key and value heads; must divide `heads`.
            head_dim: size of a head of queries and keys.
            capacity: tokens per row for which there is room; it grows when they run out.
            options: as in `span_attention`.
            scale: factor on the scores; None means 1 / sqrt(head_dim).
            softcap: as in `span_attention`.
            value_dim: size of a head of values; None means head_dim.
            keep_queries: keep the queries of all tokens, which `backend="reference"` needs.
            offload: keep keys and values in the host's memory, and on the device those of the chunk in progress alone.
            dtype: of queries, keys and values; None means torch's default.
            device: where the tokens are; None means torch's default.
            **changes: as in `span_attention`.

        Raises:
            ValueError: a number out of range, or options by which queries that are not kept would choose together.
        """
        options = span_options(options, changes)
        check_integer("capacity", capacity, minimum=1)
        if kv_heads == 0 or heads % kv_heads:
            raise ValueError(f"{heads} query heads cannot be shared out evenly among {kv_heads} key heads")
        self.options, self.keeps_queries, self.offload, self.held = options, keep_queries, offload, 0
        self.head_dim, self.value_dim = head_dim, head_dim if value_dim is None else value_dim
        check_comparable(self.head_dim, self.value_dim, options)
        like = torch.empty(batch, 0, 0, head_dim, dtype=dtype, device=device)
        self.scoring = Scoring.of(like, scale, softcap)
        head_dim = max(self.head_dim, self.value_dim)
        no_query, no_key = like.new_zeros(batch, heads, 0, head_dim), like.new_zeros(batch, kv_heads, 0, head_dim)
        ranks = options.retrieves and options.retrieval == "relevance"
        asks = ranks and options.summary == "attention"
        width = summary_width(options, head_dim) if ranks else 0
        kinds = 1 + options.chooses_for_next if ranks and not options.chooses_per_token else 0
        if kinds and options.pools_scores:
            raise ValueError(
                f"selection={options.selection!r} with summary={options.summary!r} and pooling={options.pooling!r} "
                "pools the scores of queries, of which decoding keeps no more than sums; use selection='token'"
            )

        # Zeros, since masked scores are finite only if what lies under them is.
        self.key_cache = self.value_cache = _longer(no_key, 0, host=offload)
        self.chunk_key = _longer(no_key, options.chunk_size if offload else 0)
        self.chunk_value = torch.zeros_like(self.chunk_key)
        self.queries = _longer(no_query, options.block_size if asks and not keep_queries else 0)
        self.summaries = like.new_zeros(batch, kv_heads, 0, width, dtype=summary_dtype(options, like.dtype))
        self.sums = like.new_zeros(batch, kinds, kv_heads, width, dtype=accumulation_dtype(like.dtype))
        self.lengths = like.new_zeros(batch, dtype=torch.int32)
        self._grow(capacity)

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
        softcap: Optional[float] = None,
        keep_queries: bool = False,
        offload: bool = False,
        **changes: Any,
    ) -> DecodeState:
        """The state after these tokens, whose attention is known already or of no interest.

        Args:
            query: `[B, Hq, L, D]`, as handed to `span_attention`.
            key: `[B, Hkv, L, D]`, likewise.
            value: `[B, Hkv, L, Dv]`, likewise.
            options: as in `span_attention`.
            layout: the sequences, at most one per row; None means every row is one, without padding.
            capacity: as for `DecodeState`; None means what the longest sequence needs.
            scale: likewise.
            softcap: likewise.
            keep_queries: likewise.
            offload: likewise.
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
        check_rows(layout)
        if capacity is None:
            capacity = max(1, layout.longest)
        elif capacity < layout.longest:
            raise ValueError(f"capacity={capacity} is less than the {layout.longest} tokens of the longest sequence")
        batch, heads, _, head_dim = query.shape
        sizes = (batch, heads, key.shape[1], head_dim, capacity)
        scores = {"scale": scale, "softcap": softcap, "value_dim": value.shape[3]}
        kept = {"keep_queries": keep_queries, "offload": offload, "dtype": query.dtype, "device": query.device}
        state = cls(*sizes, options, **scores, **kept)
        query, key, value = resize_heads(state.key_cache.shape[3], query, key, value)
        for rows, start, length in layout.segments():
            tokens = (x[rows, :, start : start + length] for x in (query, key, value))
            store(*tokens, state.tensors().rows(rows), 0, options, state.scoring.scale)
            state.lengths[rows] = length
        state.held = layout.longest
        return state

    @property
    def capacity(self) -> int:
        """Tokens per row for which there is room."""
        return self.key_cache.shape[2]

    def tensors(self) -> DecodeTensors:
        """All tensors."""
        return DecodeTensors(*(getattr(self, name) for name in DecodeTensors._fields))

    def bytes_held(self) -> HeldBytes:
        """The memory that the state takes, on the device and in the host's memory.

        Returns:
            Bytes of keys and values, and of all else.
        """
        cache, rest = 0, 0
        for name, x in self.tensors()._asdict().items():
            if name in _CACHES:
                cache += x.nbytes
            else:
                rest += x.nbytes
        return HeldBytes(cache, rest)

    @torch.no_grad()
    def reserve(self, tokens: int):
        """Make room for so many more tokens in every row.

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
            self._grow(self.held + tokens)

    @torch.no_grad()
    def reorder(self, rows: Tensor):
        """Let the rows go on from others, in place where there are as many as before: a step of beam search.

        Args:
            rows: integers, for each row to come the one whose tokens it takes over.
        """
        self.held = int(self.lengths.max())
        for name, x in self.tensors()._asdict().items():
            taken = rows.to(x.device)
            if len(taken) != len(x):
                more = _zeros((len(taken), *x.shape[1:]), x, host=self.offload and name in _CACHES)
                setattr(self, name, torch.index_select(x, 0, taken, out=more))
            else:
                x = x[:, :, : self.held] if name in _CACHES else x
                x.copy_(x.index_select(0, taken))
        self.held = int(self.lengths.max())

    @torch.no_grad()
    def crop(self, lengths: Union[int, Tensor]):
        """Forget the last tokens. It waits for the device.

        Args:
            lengths: how many of the first tokens stay, in all rows or `[B]` in each; shorter rows stay as they are.

        Raises:
            ValueError: a negative number or another number of rows; or what is kept depends on the forgotten queries.
        """
        before = self.lengths.tolist()
        wanted = [lengths] * len(before) if isinstance(lengths, int) else lengths.tolist()
        if len(wanted) != len(before) or min(wanted, default=0) < 0:
            raise ValueError(f"lengths={lengths} must be a number from 0 on, or one for each of {len(before)} rows")
        after = [min(pair) for pair in zip(before, wanted)]
        for row, (old, new) in enumerate(zip(before, after)):
            reason = self._cannot_crop(old, new) if new < old else None
            if reason is not None:
                raise ValueError(f"row {row} cannot go back from {old} to {new} tokens: {reason}")
        size = self.options.chunk_size
        for row, (old, new) in enumerate(zip(before, after)):
            if self.offload and old // size != new // size:
                for chunk, cache in ((self.chunk_key, self.key_cache), (self.chunk_value, self.value_cache)):
                    chunk[row, :, : new % size] = cache[row, :, new - new % size : new]
        self.lengths.copy_(torch.tensor(after, dtype=torch.int32))
        self.held = max(after, default=0)

    def reset(self):
        """Forget all tokens; the room for them stays."""
        self.lengths.zero_()
        self.held = 0

    def expect(self, tokens: int, layout: Optional[SequenceLayout] = None):
        """Make room for so many more tokens in every row, or for those of a layout.

        Without a layout the device is not asked.
        """
        held = self.held + tokens
        if layout is not None:
            new = {row: length for row, _, length in layout.sequences}
            held = max((old + new.get(row, 0) for row, old in enumerate(self.lengths.tolist())), default=0)
        if held > self.capacity:
            self._grow(max(held, self.capacity + self.capacity // 4))
        self.held = held

    def _cannot_crop(self, before: int, after: int) -> Optional[str]:
        """Why a row cannot go back: sums and queries that the next tokens need cannot be restored."""
        options, size = self.options, self.options.block_size
        block = after - after % size
        if 0 < self.queries.shape[2] == size and block < min(after, before - size):
            return (
                f"summary='attention' needs the queries of the block it reopens, and those of the last {size} tokens "
                f"are kept; use another summary, or go back to a multiple of block_size={size}"
            )
        if self.sums.shape[1] == 0:
            return None
        unit, rest = divmod(after, options.unit_size)
        # A unit that has begun chooses by its sum, or the next one does, whose sum then is the one before it.
        choosing = {unit} if options.chooses_for_next or rest else set()
        if options.chooses_for_next and rest:
            choosing.add(unit + 1)
        if any(map(options.candidates, choosing)):
            return (
                f"selection={options.selection!r} chooses by sums of queries, which do not tell what they were "
                "without the forgotten ones; use selection='token'"
            )
        return None

    def _grow(self, capacity: int):
        """Make room for so many tokens per row."""
        blocks = -(-capacity // self.options.block_size)
        more = blocks * self.options.block_size - self.capacity
        self.key_cache, self.value_cache = (_longer(x, more, self.offload) for x in (self.key_cache, self.value_cache))
        self.summaries = _longer(self.summaries, blocks - self.summaries.shape[2])
        if self.keeps_queries:
            self.queries = _longer(self.queries, more)


_CACHES = ("key_cache", "value_cache")


def check_rows(layout: SequenceLayout):
    """Refuse rows of several sequences."""
    rows = [row for row, _, _ in layout.sequences]
    packed = next((row for row, after in zip(rows, rows[1:]) if row == after), None)
    if packed is not None:
        raise ValueError(
            f"row {packed} holds {rows.count(packed)} packed sequences; decoding appends to one sequence per row, "
            "so give each a row of its own"
        )


def _longer(x: Tensor, more: int, host: bool = False) -> Tensor:
    """The tensor with room for more tokens behind those it has."""
    longer = _zeros((*x.shape[:2], x.shape[2] + more, x.shape[3]), x, host)
    longer[:, :, : x.shape[2]] = x
    return longer


def _zeros(shape: Sequence[int], like: Tensor, host: bool) -> Tensor:
    """Zeros, in the host's memory from where devices can read by themselves, or where `like` is."""
    if host:
        return torch.zeros(shape, dtype=like.dtype, device="cpu", pin_memory=torch.cuda.is_available())
    return like.new_zeros(shape)
