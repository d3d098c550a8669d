# SPDX-License-Identifier: Apache-2.0
"""Any number of new tokens per row against what is kept of those before them, where the host knows the lengths."""

from __future__ import annotations

from itertools import groupby
from typing import Iterator, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from .. import backends
from ..hashing import hashed_scores
from ..inputs import accumulation_dtype
from ..kept import DecodeTensors, store
from ..layout import SequenceLayout
from ..options import SpanOptions
from ..scoring import Scoring
from ..selection import best, block_scores, token_scores
from .flash import flash_forward
from .pairs import pair_parts
from .parts import TilePart, Tiles, attend_forward

# Scores, and the numbers of gathered blocks, are at most about so many at a time.
_SLICE = 1 << 23


class Run(NamedTuple):
    """Neighbouring rows that hold equally many tokens and get equally many at the same place."""

    rows: slice
    start: int
    length: int
    held: int


def extend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SequenceLayout,
    kept: DecodeTensors,
    options: SpanOptions,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor]:
    """Append each row's tokens to those it holds, and give their attention, zero at padding, and its log-sum-exp."""
    lengths = kept.lengths.tolist()
    holds_some = any(lengths)
    if holds_some:
        output = torch.zeros_like(query)
        lse = query.new_zeros(query.shape[:3], dtype=accumulation_dtype(query.dtype))
    else:
        module = backends.choose("auto", "span", query, options, layout, scoring.softcap)
        output, lse, _ = module.span_forward(query, key, value, layout, options, scoring)
    new = [0] * layout.batch
    for rows, start, length, held in _runs(layout, lengths):
        tokens = (x[rows, :, start : start + length] for x in (query, key, value))
        if holds_some:
            attended = _extend(*tokens, kept.rows(rows), held, options, scoring)
            for x, of_run in zip((output, lse), attended):
                x[rows, :, start : start + length] = of_run
        else:
            store(*tokens, kept.rows(rows), held, options, scoring.scale)
        new[rows] = [length] * (rows.stop - rows.start)
    kept.lengths.add_(torch.tensor(new, dtype=kept.lengths.dtype).to(kept.lengths.device))
    return output, lse


def _runs(layout: SequenceLayout, held: List[int]) -> Iterator[Run]:
    for rows, start, length in layout.segments():
        for before, run in groupby(range(rows.start, rows.stop), key=held.__getitem__):
            run = list(run)
            yield Run(slice(run[0], run[-1] + 1), start, length, before)


def _extend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kept: DecodeTensors,
    before: int,
    options: SpanOptions,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor]:
    """One run: query `[R, Hq, n, D]`, key and value `[R, Hkv, n, D]`, and what is kept of its rows alone."""
    length, size = query.shape[2], options.chunk_size
    first = before - before % size
    cuts = sorted({0, *range(first + size - before, length, size), length})
    of_chunks = [slice(*cut) for cut in zip(cuts, cuts[1:])]
    if length == 1:
        pooled = store(query, key, value, kept, before, options, scoring.scale)
        output, lse = _attend_all(query, *kept.chunk(first, before + 1), scoring)
    else:
        tiles = (Tiles(slice(0, len(query)), x.start, 1, x.stop - x.start) for x in of_chunks)
        parts = [TilePart(tile, tile, causal=True) for tile in tiles]
        output, lse = attend_forward(query, key, value, parts, scoring)
        if before > first:
            opened = _attend_all(query[:, :, of_chunks[0]], *kept.chunk(first, before), scoring)
            _merge(output[:, :, of_chunks[0]], lse[:, :, of_chunks[0]], *opened)
        pooled = store(query, key, value, kept, before, options, scoring.scale)
    if options.retrieves:
        for tokens in of_chunks:
            retrieved = _attend_retrieved(query, pooled, kept, before, tokens, options, scoring)
            if retrieved is not None:
                _merge(output[:, :, tokens], lse[:, :, tokens], *retrieved)
    return output, lse


def _attend_retrieved(
    query: Tensor,
    pooled: Optional[Tensor],
    kept: DecodeTensors,
    before: int,
    tokens: slice,
    options: SpanOptions,
    scoring: Scoring,
) -> Optional[Tuple[Tensor, Tensor]]:
    """What tokens of one chunk get from the blocks they retrieve, if there are any."""
    candidates = options.candidates((before + tokens.start) // options.unit_size)
    if candidates == 0:
        return None
    chosen = query[:, :, tokens]
    if candidates <= options.top_k:
        past = slice(0, candidates * options.block_size)
        read = (x[:, :, past].to(query.device) for x in (kept.key_cache, kept.value_cache))
        return _attend_all(chosen, *read, scoring)
    step = max(1, _SLICE // (len(query) * kept.summaries.shape[1] * candidates))
    slices = (slice(x, min(x + step, tokens.stop)) for x in range(tokens.start, tokens.stop, step))
    blocks = [_choose(query, pooled, kept, before, some, candidates, options, scoring.scale) for some in slices]
    blocks = torch.cat(blocks, dim=2) if len(blocks) > 1 else blocks[0]
    gathered = blocks.numel() * options.block_size * query.shape[3]
    attend = _attend_gathered if blocks.shape[2] == 1 or gathered <= _SLICE else _attend_pairs
    return attend(chosen, kept, blocks, options.block_size, scoring)


def _choose(
    query: Tensor,
    pooled: Optional[Tensor],
    kept: DecodeTensors,
    before: int,
    tokens: slice,
    candidates: int,
    options: SpanOptions,
    scale: float,
) -> Tensor:
    """The blocks `[R, Hkv, n, top_k]` that some tokens of one chunk retrieve, of more candidates than these."""
    rows, heads = kept.key_cache.shape[:2]
    first, last = ((before + token) // options.unit_size for token in (tokens.start, tokens.stop - 1))
    units = torch.arange(first, last + 1, device=query.device)
    if options.retrieval == "random":
        index = torch.arange(max(heads, candidates), device=query.device)
        scores = hashed_scores(options.seed, index[:heads, None, None], units[:, None], index[:candidates])
        scores = scores.expand(rows, -1, -1, -1)
    elif pooled is None:
        scores = token_scores(query[:, :, tokens], kept.summaries[:, :, :candidates], options, scale)
    else:
        asked = pooled[:, :, units - before // options.unit_size]
        scores = block_scores(asked, kept.summaries[:, :, :candidates])
    top = scores.topk(options.top_k + 1, dim=-1)
    clear = bool((top.values[..., :-1] > top.values[..., 1:]).all())
    blocks = top.indices[..., :-1] if clear else best(scores, options.top_k)
    if options.chooses_per_token:
        return blocks
    of_token = torch.arange(before + tokens.start, before + tokens.stop, device=query.device) // options.unit_size
    return blocks[:, :, of_token - first]


def _attend_gathered(
    query: Tensor, kept: DecodeTensors, blocks: Tensor, size: int, scoring: Scoring
) -> Tuple[Tensor, Tensor]:
    """Attention of few tokens `[R, Hq, n, D]` to the blocks `[R, Hkv, n, k]` of each, which are gathered."""
    rows, heads, length, _ = blocks.shape
    own = torch.arange(rows * heads, device=blocks.device).view(rows, heads, 1, 1) * (kept.key_cache.shape[2] // size)
    index = (blocks + own).flatten().to(kept.key_cache.device)

    def gather(x: Tensor) -> Tensor:
        taken = x.reshape(-1, size * x.shape[3]).index_select(0, index)
        return taken.to(query.device).view(rows * heads, length, -1, x.shape[3])

    grouped = query.unflatten(1, (heads, -1)).transpose(2, 3).flatten(0, 1)  # [R * Hkv, n, G, D]
    output, lse = flash_forward(grouped, gather(kept.key_cache), gather(kept.value_cache), False, scoring)
    output = output.unflatten(0, (rows, heads)).transpose(2, 3).flatten(1, 2)
    return output, lse.unflatten(0, (rows, heads)).transpose(2, 3).flatten(1, 2)


def _attend_pairs(
    query: Tensor, kept: DecodeTensors, blocks: Tensor, size: int, scoring: Scoring
) -> Tuple[Tensor, Tensor]:
    """Attention of many tokens, where each block meets those that chose it; one KV head after the other."""
    rows, heads, length, _ = blocks.shape
    groups, every = query.shape[1] // heads, slice(0, rows)
    queries, keys = Tiles(every, 0, length, 1), Tiles(every, 0, kept.key_cache.shape[2] // size, size)
    results = []
    for head, asked in enumerate(query.split(groups, dim=1)):
        key, value = (x[:, head : head + 1].to(query.device) for x in (kept.key_cache, kept.value_cache))
        parts = pair_parts(queries, keys, blocks[:, head : head + 1], asked)
        results.append(attend_forward(asked, key, value, parts, scoring))
    output, lse = zip(*results)
    return torch.cat(output, dim=1), torch.cat(lse, dim=1)


def _attend_all(query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tuple[Tensor, Tensor]:
    """Attention of `[R, Hq, n, D]` to all of `[R, Hkv, m, D]`; the heads of a group are the rows of one problem."""
    grouped = query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    output, lse = flash_forward(grouped, key, value, False, scoring)
    return output.reshape(query.shape), lse.reshape(query.shape[:3])


def _merge(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor):
    """Join, in place, what the same queries get from other keys under one softmax."""
    output.lerp_(other, torch.sigmoid(other_lse - lse)[..., None].to(output.dtype))
    torch.logaddexp(lse, other_lse, out=lse)
