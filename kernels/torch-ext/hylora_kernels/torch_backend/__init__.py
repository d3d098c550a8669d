# SPDX-License-Identifier: Apache-2.0
"""The fast backend on torch's own flash attention: each function only says which parts make it up."""

from __future__ import annotations

from itertools import groupby
from typing import Iterable, Iterator, List, Optional, Tuple, Union

import torch
from torch import Tensor

from .. import selection
from ..inputs import accumulation_dtype
from ..layout import Segment, SequenceLayout
from ..options import SpanOptions, group_size
from ..saved import Saved
from ..scoring import Scoring
from .decode import span_decode
from .pairs import pair_parts
from .parts import BlockPart, Part, TilePart, Tiles, attend_backward, attend_forward

__all__ = [
    "block_backward",
    "block_forward",
    "select_blocks",
    "shifted_sparse_backward",
    "shifted_sparse_forward",
    "sliding_window_backward",
    "sliding_window_forward",
    "span_backward",
    "span_decode",
    "span_forward",
    "unsupported",
]

# Gathered keys hold at most about this many numbers per part.
_GATHER = 1 << 23


def unsupported(
    work: str, query: Tensor, options: Optional[SpanOptions], softcap: Optional[float] = None
) -> Optional[str]:
    """Nothing is."""
    return None


def span_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SequenceLayout,
    options: SpanOptions,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor, Tensor]:
    """The output, the log-sum-exp `[B, Hq, L]`, and the blocks `[Hkv, units, top_k]` int32 of one sequence after the
    other."""
    chosen = list(_select(query, key, value, layout, options, scoring.scale))
    output, lse = attend_forward(query, key, value, _span_parts(chosen, layout, options, query), scoring)
    blocks = _by_sequence(chosen, layout)
    if not blocks:
        return output, lse, query.new_empty((key.shape[1], 0, options.top_k), dtype=torch.int32)
    return output, lse, torch.cat(blocks, dim=1).to(torch.int32)


def span_backward(
    grad: Tensor,
    saved: Saved,
    layout: SequenceLayout,
    options: SpanOptions,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from what `span_forward` gave."""
    chosen = _by_segment(saved.blocks, layout, options)
    return attend_backward(grad, saved, _span_parts(chosen, layout, options, grad), scoring)


def block_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    blocks: Tensor,
    layout: SequenceLayout,
    options: SpanOptions,
    own_chunk: bool,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor]:
    """The output and the log-sum-exp `[B, Hq, L]`."""
    parts = _given_parts(blocks, layout, options, own_chunk, query)
    return attend_forward(query, key, value, parts, scoring)


def block_backward(
    grad: Tensor,
    lse_grad: Optional[Tensor],
    saved: Saved,
    layout: SequenceLayout,
    options: SpanOptions,
    own_chunk: bool,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from what `block_forward` gave."""
    parts = _given_parts(saved.blocks, layout, options, own_chunk, grad)
    return attend_backward(grad, saved, parts, scoring, lse_grad)


def select_blocks(
    query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout, options: SpanOptions, scale: float
) -> List[Tensor]:
    """The retrieved blocks of every sequence."""
    return _by_sequence(_select(query, key, value, layout, options, scale), layout)


def sliding_window_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SequenceLayout,
    window: int,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor]:
    """The output and the log-sum-exp `[B, Hq, L]`."""
    return attend_forward(query, key, value, _window_parts(layout, window), scoring)


def sliding_window_backward(
    grad: Tensor,
    saved: Saved,
    layout: SequenceLayout,
    window: int,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from what `sliding_window_forward` gave."""
    return attend_backward(grad, saved, _window_parts(layout, window), scoring)


def shifted_sparse_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SequenceLayout,
    group: Union[int, float],
    scoring: Scoring,
) -> Tuple[Tensor, Tensor]:
    """The output and the log-sum-exp `[B, Hq, L]`."""
    heads = query.shape[1]
    parts = _shifted_parts(layout, heads, group)
    return attend_forward(query, *_for_each_head(heads, key, value), parts, scoring)


def shifted_sparse_backward(
    grad: Tensor,
    saved: Saved,
    layout: SequenceLayout,
    group: Union[int, float],
    scoring: Scoring,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from what `shifted_sparse_forward` gave."""
    heads, kv_heads = saved.query.shape[1], saved.key.shape[1]
    key, value = _for_each_head(heads, saved.key, saved.value)
    parts = _shifted_parts(layout, heads, group)
    grad_query, *grads = attend_backward(grad, saved._replace(key=key, value=value), parts, scoring)
    dtype = accumulation_dtype(grad_query.dtype)
    return (grad_query, *(x.unflatten(1, (kv_heads, -1)).sum(dim=2, dtype=dtype).to(x.dtype) for x in grads))


def _span_parts(
    chosen: Iterable[Tensor], layout: SequenceLayout, options: SpanOptions, query: Tensor
) -> Iterator[Part]:
    for segment, blocks in zip(layout.segments(), chosen):
        yield from _causal_tiles(segment.rows, segment.start, segment.length, options.chunk_size)
        counts = [options.retrieved(unit) for unit in range(blocks.shape[2])]
        yield from _retrieved(segment, blocks, counts, _gathers_queries(blocks, options, query), options, query)


def _given_parts(
    blocks: Tensor, layout: SequenceLayout, options: SpanOptions, own_chunk: bool, query: Tensor
) -> Iterator[Part]:
    """The parts for blocks `[Hkv, units, k]` of which any may be missing."""
    for segment, given in zip(layout.segments(), _by_segment(blocks, layout, options)):
        if own_chunk:
            yield from _causal_tiles(segment.rows, segment.start, segment.length, options.chunk_size)
        held = (given >= 0).sum(dim=-1).flatten(0, 1)
        by_pairs = _gathers_queries(given, options, query) or not bool((held == held[0]).all())
        # Units that have no candidates are left to no part: their sequence may have no block at all.
        places = (given.shape[3] if options.candidates(unit) else 0 for unit in range(given.shape[2]))
        counts = list(places) if by_pairs else held[0].tolist()
        yield from _retrieved(segment, given, counts, by_pairs, options, query)


def _window_parts(layout: SequenceLayout, window: int) -> List[TilePart]:
    """Query a of a chunk sees the keys b > a of the chunk before: a triangle of side `window - 1`, backwards."""
    parts = []
    side = window - 1
    for rows, start, length in layout.segments():
        parts += _causal_tiles(rows, start, length, window)
        full, rest = divmod(length, window)
        if full > 1 and side > 0:
            queries = Tiles(rows, start + window, full - 1, side, stride=window)
            keys = Tiles(rows, start + 1, full - 1, side, stride=window)
            parts.append(TilePart(queries, keys, causal=True, backwards=True))
        if full > 0 and rest > 0:
            # A last chunk of fewer queries: a smaller triangle, and beyond it keys that all of them see.
            queries = Tiles(rows, start + full * window, 1, rest)
            before = queries.start - window
            parts.append(TilePart(queries, Tiles(rows, before + 1, 1, rest), causal=True, backwards=True))
            if rest < side:
                parts.append(TilePart(queries, Tiles(rows, before + 1 + rest, 1, side - rest), causal=False))
    return parts


def _shifted_parts(layout: SequenceLayout, heads: int, group: Union[int, float]) -> List[TilePart]:
    parts = []
    for rows, start, length in layout.segments():
        size = group_size(group, length)
        half = min(size // 2, length)
        if heads > 1:
            parts += _causal_tiles(rows, start, length, size, slice(0, heads // 2))
        shifted = slice(heads // 2, heads)
        parts += _causal_tiles(rows, start, half, half, shifted)
        parts += _causal_tiles(rows, start + half, length - half, size, shifted)
    return parts


def _for_each_head(heads: int, *tensors: Tensor) -> Tuple[Tensor, ...]:
    """Keys and values repeated for every query head, since the halves of the heads may cut through a group."""
    return tuple(x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1) for x in tensors)


def _by_sequence(chosen: Iterable[Tensor], layout: SequenceLayout) -> List[Tensor]:
    """Choices `[rows, Hkv, units, top_k]` of each segment as `[Hkv, units, top_k]` of each sequence."""
    found = {}
    for segment, blocks in zip(layout.segments(), chosen):
        for row, of_row in zip(range(segment.rows.start, segment.rows.stop), blocks):
            found[row, segment.start] = of_row
    return [found[row, start] for row, start, _ in layout.sequences]


def _by_segment(blocks: Tensor, layout: SequenceLayout, options: SpanOptions) -> List[Tensor]:
    """Choices `[Hkv, units, top_k]` of one sequence after the other as `[rows, Hkv, units, top_k]` of each segment."""
    units = [options.units(length) for _, _, length in layout.sequences]
    of_sequence = zip(layout.sequences, blocks.long().split(units, dim=1))
    at = {sequence[:2]: chosen for sequence, chosen in of_sequence}
    return [
        torch.stack([at[row, start] for row in range(rows.start, rows.stop)]) for rows, start, _ in layout.segments()
    ]


def _select(
    query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout, options: SpanOptions, scale: float
) -> Iterator[Tensor]:
    """The choice of blocks `[rows, Hkv, units, top_k]` of each segment."""
    if options.retrieval == "random" and layout.longest:
        # It is blind to the tokens: what a sequence chooses is how the choice of any longer one begins.
        longest = (x[:1, :, : layout.longest] for x in (query, key, value))
        chosen = selection.select_blocks(*longest, options, scale)
        for rows, _, length in layout.segments():
            yield chosen[:, :, : options.units(length)].expand(rows.stop - rows.start, -1, -1, -1)
        return
    for rows, start, length in layout.segments():
        q, k, v = (x[rows, :, start : start + length] for x in (query, key, value))
        yield selection.select_blocks(q, k, v, options, scale)


def _causal_tiles(rows: slice, start: int, length: int, size: int, heads: slice = slice(None)) -> List[TilePart]:
    """A stretch of tokens cut into causal tiles; the last one may be shorter."""
    full, rest = divmod(length, size) if length else (0, 0)
    tiles = []
    if full:
        tiles.append(Tiles(rows, start, full, size, heads))
    if rest:
        tiles.append(Tiles(rows, start + full * size, 1, rest, heads))
    return [TilePart(tile, tile, causal=True) for tile in tiles]


def _gathers_queries(blocks: Tensor, options: SpanOptions, query: Tensor) -> bool:
    """Whether to gather queries for blocks, which moves less than the reverse where units have fewer rows."""
    return options.unit_size * (query.shape[1] // blocks.shape[1]) < options.block_size


def _retrieved(
    segment: Segment, blocks: Tensor, counts: List[int], by_pairs: bool, options: SpanOptions, query: Tensor
) -> Iterator[Part]:
    """The parts that read retrieved blocks, so many of each unit: runs of full units with equally many blocks, and a
    shorter last unit. Pairs of a query and a block may miss some of these."""
    full = segment.length // options.unit_size
    for (count, whole), run in groupby(range(len(counts)), key=lambda unit: (counts[unit], unit < full)):
        run = list(run)
        if count:
            first = segment.start + run[0] * options.unit_size
            size = options.unit_size if whole else segment.length % options.unit_size
            queries = Tiles(segment.rows, first, len(run), size)
            keys = Tiles(segment.rows, segment.start, segment.length // options.block_size, options.block_size)
            chosen = blocks[:, :, run[0] : run[-1] + 1, :count]
            yield from (pair_parts if by_pairs else _block_parts)(queries, keys, chosen, query)


def _block_parts(queries: Tiles, keys: Tiles, blocks: Tensor, query: Tensor) -> Iterator[BlockPart]:
    """Some units at a time."""
    step = max(1, _GATHER // (blocks[:, :, 0].numel() * keys.size * query.shape[3]))
    for first in range(0, queries.count, step):
        some = blocks[:, :, first : first + step]
        yield BlockPart(queries._replace(start=queries.start + first * queries.size, count=some.shape[2]), keys, some)
