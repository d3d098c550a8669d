# SPDX-License-Identifier: Apache-2.0
"""The choice of memory blocks from pooled queries and summaries (6.5), without a matrix of all scores.

A program takes a tile of units, streams over their candidates and keeps each unit's best. A candidate is one int64:
its score, as an integer of the same order, above the complement of the block's number. Such keys are unique and the
highest is the best, ties going to the lower block, in whatever order they are met.
"""

from __future__ import annotations

from typing import Optional

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..options import SpanOptions, summary_width
from .columns import BLOCK_WIDTH, CANDIDATES, CHOOSER, FIRST, ROW, TOKENS, UNIT_FIRST_BLOCK, UNIT_WIDTH
from .launch import launch_for
from .summary import spread_feature
from .tables import SpanTables

# Few units with many candidates are shared out among up to this many programs, which fill a large GPU, as long as each
# gets so many candidates.
_PROGRAMS, _SHARE = 256, 256
# Tiles do not hold whole vectors: longer ones than launches are listed for take that of the longest.
_MOST_LISTED = 256
# Below the key of every score.
MISSING = tl.constexpr(-(2**63))


def pool_queries(
    query: Tensor, query_sums: Optional[Tensor], kv_heads: int, tables: SpanTables, options: SpanOptions, scale: float
) -> Tensor:
    """The features by which each unit selects, summed over tokens and the heads that share a KV head (6.5).

    Args:
        query: `[B, Hq, L, D]`, the last dimension contiguous. Not read where there are sums of blocks.
        query_sums: `[Hkv, blocks, W]` float32 or None, as `summarize_blocks` gives it.
        kv_heads: Hkv.
        tables: those of the layout and the options.
        options: what is chosen for whom, and by which features.
        scale: factor of the scores.

    Returns:
        `[Hkv, units, W]` float32, 0 for units for which no queries choose.
    """
    units, width = tables.units.shape[0], summary_width(options, query.shape[3])
    pooled = torch.empty(kv_heads, units, width, dtype=torch.float32, device=query.device)
    if units == 0:
        return pooled
    if query_sums is None:
        source, block_size, groups = query, 1, query.shape[1] // kv_heads
    else:
        # The sums are one row of queries, one for each block.
        source, block_size, groups = query_sums[None], options.block_size, 1

    head_dim = source.shape[3]
    launch = launch_for("pool_queries", query.shape[3], query.dtype, query.device)
    items = min(launch.block_m, triton.next_power_of_2(options.unit_size // block_size))
    columns = min(launch.block_n, triton.next_power_of_2(head_dim))
    grid = (triton.cdiv(units, launch.block_m // items) * triton.cdiv(head_dim, columns), kv_heads)
    _pool_queries[grid](
        source,
        pooled,
        tables.units,
        tables.blocks,
        units,
        groups,
        scale,
        source.stride(),
        SUMMARY=options.summary,
        WIDTH=width,
        BLOCK_SIZE=block_size,
        HEAD_DIM=head_dim,
        BLOCK_D=columns,
        UNITS=launch.block_m // items,
        ITEMS=items,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )
    return pooled


@triton.jit(do_not_specialize=["count", "groups"])
def _pool_queries(
    source,
    pooled,
    table,
    blocks,
    count,
    groups,
    scale,
    source_strides,
    SUMMARY: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    UNITS: tl.constexpr,
    ITEMS: tl.constexpr,
):
    SLICES: tl.constexpr = (HEAD_DIM + BLOCK_D - 1) // BLOCK_D
    kv_head = tl.program_id(1).to(tl.int64)
    first_unit = tl.program_id(0) // SLICES * UNITS
    dim = tl.program_id(0) % SLICES * BLOCK_D + tl.arange(0, BLOCK_D)
    place = tl.arange(0, UNITS * ITEMS)
    unit = first_unit + place // ITEMS
    chooser = tl.load(table + unit * UNIT_WIDTH + CHOOSER, unit < count, other=-1)
    choosing = table + chooser * UNIT_WIDTH
    row = tl.load(choosing + ROW, chooser >= 0, other=0).to(tl.int64)
    first = tl.load(choosing + FIRST, chooser >= 0, other=0)
    items = tl.load(choosing + TOKENS, chooser >= 0, other=0)
    if BLOCK_SIZE > 1:
        # From a run of tokens to the run of their blocks.
        first_block = tl.load(choosing + UNIT_FIRST_BLOCK, chooser >= 0, other=0)
        sequence_start = tl.load(blocks + first_block * BLOCK_WIDTH + FIRST, chooser >= 0, other=0)
        first = first_block + (first - sequence_start) // BLOCK_SIZE
        items = tl.cdiv(items, BLOCK_SIZE)
        row = row * 0

    source += (row * source_strides[0])[:, None] + kv_head * groups * source_strides[1] + dim[None, :]
    total = tl.zeros([UNITS, BLOCK_D], tl.float32)
    # What is summed already has its features.
    if WIDTH > HEAD_DIM:
        spread = tl.zeros([UNITS, BLOCK_D], tl.float32)
    for _ in range(groups):
        for start in range(0, tl.max(items, 0), ITEMS):
            item = start + place % ITEMS
            inside = (item < items)[:, None] & (dim < HEAD_DIM)[None, :]
            x = tl.load(source + (first + item).to(tl.int64)[:, None] * source_strides[2], inside, other=0.0)
            x = tl.reshape(x.to(tl.float32), [UNITS, ITEMS, BLOCK_D])
            total += tl.sum(x, 1)
            if WIDTH > HEAD_DIM:
                spread += tl.sum(spread_feature(x, scale, SUMMARY), 1)
        source += source_strides[1]

    unit = first_unit + tl.arange(0, UNITS)
    at = (kv_head * count + unit)[:, None] * WIDTH + dim[None, :]
    inside = (unit < count)[:, None] & (dim < HEAD_DIM)[None, :]
    tl.store(pooled + at, total, inside)
    if WIDTH > HEAD_DIM:
        tl.store(pooled + at + HEAD_DIM, spread, inside)


def retrieve(pooled: Tensor, summaries: Tensor, tables: SpanTables, top_k: int) -> Tensor:
    """The blocks of highest score `pooled . summary` among each unit's candidates, ties to the lower block.

    Args:
        pooled: `[Hkv, units, W]` float32, contiguous.
        summaries: `[Hkv, blocks, W]` float32 or bfloat16, contiguous.
        tables: those of the layout and the options.
        top_k: blocks wanted, at least 1.

    Returns:
        `[Hkv, units, top_k]` int32: numbered from the unit's sequence's start, best first, filled up with -1.
    """
    kv_heads, units, width = pooled.shape
    blocks = summaries.shape[1]
    chosen = torch.empty(kv_heads, units, top_k, dtype=torch.int32, device=pooled.device)
    if units == 0:
        return chosen

    launch = launch_for("retrieve", min(width, _MOST_LISTED), pooled.dtype, pooled.device)
    rows = min(launch.block_m, triton.next_power_of_2(max(16, units)))
    tiles = triton.cdiv(units, rows)
    splits = max(1, min(_PROGRAMS // (tiles * kv_heads), blocks // _SHARE))
    splits = 1 << (splits.bit_length() - 1)
    kept = triton.next_power_of_2(top_k)
    found = chosen if splits == 1 else chosen.new_empty(kv_heads, units, splits * kept, dtype=torch.int64)
    _retrieve[(tiles * splits, kv_heads)](
        pooled,
        summaries,
        found,
        tables.units,
        units,
        blocks,
        top_k,
        SPLITS=splits,
        KEPT=kept,
        WIDTH=width,
        BLOCK_D=32,
        ROWS=rows,
        COLUMNS=launch.block_n,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )
    if splits > 1:
        _merge[(units, kv_heads)](
            found, chosen, tables.units, top_k, KEYS=splits * kept, num_warps=max(1, min(8, splits * kept // 256))
        )
    return chosen


@triton.jit(do_not_specialize=["count", "blocks", "top_k"])
def _retrieve(
    pooled,
    summaries,
    found,
    table,
    count,
    blocks,
    top_k,
    SPLITS: tl.constexpr,
    KEPT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    # Later units of a sequence have more candidates and start first.
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head = tl.program_id(1).to(tl.int64)
    unit = program // SPLITS * ROWS + tl.arange(0, ROWS)
    first = tl.load(table + unit * UNIT_WIDTH + UNIT_FIRST_BLOCK, unit < count, other=0)
    end = first + tl.load(table + unit * UNIT_WIDTH + CANDIDATES, unit < count, other=0)

    # A tile may hold units of several sequences: it streams over all their blocks, each row sees its own.
    begin = tl.min(tl.where(first < end, first, blocks), 0)
    stop = tl.max(tl.where(first < end, end, 0), 0)
    share = tl.cdiv(tl.maximum(stop - begin, 0), SPLITS)
    begin += program % SPLITS * share
    stop = tl.minimum(stop, begin + share)

    # Places without a candidate differ a little, so that they are taken one at a time.
    slot = tl.arange(0, KEPT)
    best = tl.zeros([ROWS, KEPT], tl.int64) + (slot.to(tl.int64) + MISSING)[None, :]
    pooled += (kv_head * count + unit)[:, None] * WIDTH
    summaries += kv_head * blocks * WIDTH
    for start in range(begin, stop, COLUMNS):
        block = start + tl.arange(0, COLUMNS)
        scores = tl.zeros([ROWS, COLUMNS], tl.float32)
        for at in range(0, WIDTH, BLOCK_D):
            dim = (at + tl.arange(0, BLOCK_D))[None, :]
            q = tl.load(pooled + dim, (unit < count)[:, None] & (dim < WIDTH), other=0.0)
            c = summaries + block.to(tl.int64)[:, None] * WIDTH + dim
            c = tl.load(c, (block < stop)[:, None] & (dim < WIDTH), other=0.0).to(tl.float32)
            # Three products of TF32 make one of float32 on tensor cores.
            scores = tl.dot(q, tl.trans(c), scores, input_precision="tf32x3")
        candidate = (block[None, :] >= first[:, None]) & (block[None, :] < tl.minimum(end, stop)[:, None])
        keys = tl.where(candidate, sort_keys(scores, block[None, :]), MISSING)

        # Swap the best of the tile for the worst that is kept, as long as any row gains by it. Beyond the first tiles
        # few candidates are of use, and this takes fewer steps than to sort.
        highest, worst = tl.max(keys, 1), tl.min(best, 1)
        while tl.max((highest > worst).to(tl.int32), 0) > 0:
            swapped = (best == worst[:, None]) & (highest > worst)[:, None]
            best = tl.where(swapped, highest[:, None], best)
            keys = tl.where(keys == highest[:, None], MISSING, keys)
            highest, worst = tl.max(keys, 1), tl.min(best, 1)

    row = kv_head * count + unit
    if SPLITS == 1:
        local = _local_blocks(tl.sort(best, descending=True), first[:, None])
        inside = (unit < count)[:, None] & (slot < top_k)[None, :]
        tl.store(found + row[:, None] * top_k + slot[None, :], local, inside)
    else:
        at = row[:, None] * (SPLITS * KEPT) + program % SPLITS * KEPT + slot[None, :]
        tl.store(found + at, best, (unit < count)[:, None])


@triton.jit(do_not_specialize=["top_k"])
def _merge(found, chosen, table, top_k, KEYS: tl.constexpr):
    """The best of what the shares of one unit's candidates gave."""
    unit = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + unit
    place = tl.arange(0, KEYS)
    best = tl.sort(tl.load(found + row * KEYS + place), descending=True)
    local = _local_blocks(best, tl.load(table + unit * UNIT_WIDTH + UNIT_FIRST_BLOCK))
    tl.store(chosen + row * top_k + place, local, place < top_k)


@triton.jit
def sort_keys(scores, index):
    """int64 keys whose descending order is that of the scores and, among equals, of the ascending index."""
    scores = tl.where(scores == 0, 0.0, scores)  # both zeros are one
    bits = scores.to(tl.int32, bitcast=True)
    # Negative numbers count backwards in their bits.
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered.to(tl.int64) << 32) | (0xFFFFFFFF - index.to(tl.int64))


@triton.jit
def _local_blocks(keys, first_block):
    """The block numbers of packed keys, from a sequence's start, or -1 where the key is none."""
    block = ~keys.to(tl.int32)
    return tl.where(block >= 0, block - first_block, -1)
