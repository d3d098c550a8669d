# SPDX-License-Identifier: Apache-2.0
"""The choice of blocks: each unit's summed queries, and the best candidates by their product with the summaries."""

from __future__ import annotations

from typing import Optional

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..options import SpanOptions
from .launch import launch_for
from .tables import SpanTables

# Below the key of every score.
MISSING = tl.constexpr(-(1 << 63))


def pool_queries(
    query: Tensor, query_sums: Optional[Tensor], kv_heads: int, tables: SpanTables, options: SpanOptions
) -> Tensor:
    """The queries by which each unit selects, summed over tokens and the heads of the group (equation 6.5).

    Args:
        query: `[B, Hq, L, D]`, the last dimension contiguous.
        query_sums: the same sums of each block, `[Hkv, blocks, D]` float32, which save reading the queries again where
            units are made of whole blocks; or None.
        kv_heads: Hkv.
        tables: those of the layout and the options.
        options: the units.

    Returns:
        `[Hkv, units, D]` float32; zeros for units that nobody selects for.
    """
    count, head_dim = tables.units.shape[0], query.shape[3]
    pooled = torch.empty(kv_heads, count, head_dim, dtype=torch.float32, device=query.device)
    if count == 0:
        return pooled
    from_sums = query_sums is not None and options.unit_size % options.block_size == 0
    if from_sums:
        source, groups, size = query_sums[None], 1, options.unit_size // options.block_size
    else:
        source, groups, size = query, query.shape[1] // kv_heads, options.unit_size
    launch = launch_for("pool_queries", head_dim, query.dtype, query.device)
    items = min(launch.block_m, triton.next_power_of_2(size))
    units = launch.block_m // items
    _pool_queries[(triton.cdiv(count, units), kv_heads)](
        source,
        pooled,
        tables.units,
        tables.blocks,
        count,
        groups,
        size,
        *source.stride()[:3],
        FROM_SUMS=from_sums,
        BLOCK_SIZE=options.block_size,
        UNITS=units,
        ITEMS=items,
        HEAD_DIM=head_dim,
        BLOCK_D=triton.next_power_of_2(max(16, head_dim)),
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )
    return pooled


def retrieve(pooled: Tensor, summaries: Tensor, tables: SpanTables, top_k: int) -> Tensor:
    """The best candidates of each unit by the inner product of its queries with the summaries (equation 6.5).

    Scores never leave the kernel: each program walks over the candidates of a few units and keeps their best.

    Args:
        pooled: `[Hkv, units, D]` float32.
        summaries: `[Hkv, blocks, D]` float32.
        tables: those of the layout.
        top_k: blocks per unit, at least 1.

    Returns:
        `[Hkv, units, top_k]` int32, numbered from the sequence's start, best first and the earlier one among equals,
        filled up with -1.
    """
    kv_heads, count, head_dim = pooled.shape
    chosen = torch.empty(kv_heads, count, top_k, dtype=torch.int32, device=pooled.device)
    if count == 0:
        return chosen
    launch = launch_for("retrieve", head_dim, pooled.dtype, pooled.device)
    kept = triton.next_power_of_2(max(2, top_k))
    _retrieve[(triton.cdiv(count, launch.block_m), kv_heads)](
        pooled,
        summaries,
        chosen,
        tables.units,
        count,
        summaries.shape[1],
        TOP_K=top_k,
        KEPT=kept,
        HEAD_DIM=head_dim,
        BLOCK_D=triton.next_power_of_2(max(16, head_dim)),
        BLOCK_M=launch.block_m,
        BLOCK_N=max(launch.block_n, kept),
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )
    return chosen


@triton.jit(do_not_specialize=["count", "groups", "size"])
def _pool_queries(
    source,
    pooled,
    unit_table,
    block_table,
    count,
    groups,
    size,
    source_b,
    source_h,
    source_l,
    FROM_SUMS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    UNITS: tl.constexpr,
    ITEMS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    kv_head = tl.program_id(1).to(tl.int64)
    slot = tl.arange(0, UNITS * ITEMS)
    unit = tl.program_id(0) * UNITS + slot // ITEMS
    asker = tl.load(unit_table + unit * 6 + 3, unit < count, other=-1)
    asked = asker >= 0
    row = tl.load(unit_table + asker * 6, asked, other=0).to(tl.int64)
    first = tl.load(unit_table + asker * 6 + 1, asked, other=0)
    items = tl.load(unit_table + asker * 6 + 2, asked, other=0)
    if FROM_SUMS:
        # Units begin where blocks do; the sequence's first block tells where the sequence begins.
        first_block = tl.load(unit_table + asker * 6 + 4, asked, other=0)
        sequence_start = tl.load(block_table + first_block * 3 + 1, asked, other=0)
        first = first_block + (first - sequence_start) // BLOCK_SIZE
        items = tl.cdiv(items, BLOCK_SIZE)
        row = row * 0
    dim = tl.arange(0, BLOCK_D)
    inside = (dim < HEAD_DIM)[None, :]
    total = tl.zeros([UNITS * ITEMS, BLOCK_D], tl.float32)
    for head in range(groups):
        for begin in range(0, size, ITEMS):
            item = begin + slot % ITEMS
            at = row * source_b + (kv_head * groups + head) * source_h + (first + item).to(tl.int64) * source_l
            x = tl.load(source + at[:, None] + dim[None, :], (item < items)[:, None] & inside, other=0.0)
            total += x.to(tl.float32)
    total = tl.sum(total.reshape([UNITS, ITEMS, BLOCK_D]), 1)
    unit = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    place = (kv_head * count + unit)[:, None] * HEAD_DIM + dim[None, :]
    tl.store(pooled + place, total, (unit < count)[:, None] & inside)


@triton.jit(do_not_specialize=["count", "block_count"])
def _retrieve(
    pooled,
    summaries,
    chosen,
    table,
    count,
    block_count,
    TOP_K: tl.constexpr,
    KEPT: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    kv_head = tl.program_id(1).to(tl.int64)
    # The units that read most come last and start first.
    unit = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_M + tl.arange(0, BLOCK_M)
    real = unit < count
    base = tl.load(table + unit * 6 + 4, real, other=0)
    end = base + tl.load(table + unit * 6 + 5, real, other=0)
    # Units of several sequences may meet in one program: it walks over the candidates of all of them.
    last = tl.max(end, 0)
    start = tl.min(tl.where(end > base, base, last), 0)

    dim = tl.arange(0, BLOCK_D)
    inside = (dim < HEAD_DIM)[None, :]
    asked = tl.load(
        pooled + (kv_head * count + unit)[:, None] * HEAD_DIM + dim[None, :], real[:, None] & inside, other=0.0
    )
    best = tl.full([BLOCK_M, KEPT], MISSING, tl.int64)
    for first in range(start, last, BLOCK_N):
        block = first + tl.arange(0, BLOCK_N)
        at = (kv_head * block_count + block)[:, None] * HEAD_DIM + dim[None, :]
        summary = tl.load(summaries + at, (block < last)[:, None] & inside, other=0.0)
        scores = tl.dot(asked, tl.trans(summary), input_precision="ieee")
        candidate = (block[None, :] >= base[:, None]) & (block[None, :] < end[:, None])
        found = tl.where(candidate, sort_keys(scores, block[None, :] - base[:, None]), MISSING)
        found = tl.topk(found, KEPT)
        best = tl.topk(tl.join(best, found).reshape([BLOCK_M, 2 * KEPT]), KEPT)

    rank = tl.arange(0, KEPT)
    index = (0xFFFFFFFF - (best & 0xFFFFFFFF)).to(tl.int32)
    index = tl.where(best == MISSING, -1, index)
    place = (kv_head * count + unit)[:, None] * TOP_K + rank[None, :]
    tl.store(chosen + place, index, real[:, None] & (rank < TOP_K)[None, :])


@triton.jit
def sort_keys(scores, index):
    """int64 keys whose descending order is that of the scores and, among equals, of the ascending index."""
    scores = tl.where(scores == 0, 0.0, scores)  # both zeros are one
    bits = scores.to(tl.int32, bitcast=True)
    # Negative numbers count backwards in their bits.
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered.to(tl.int64) << 32) | (0xFFFFFFFF - index.to(tl.int64))
