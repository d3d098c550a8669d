# SPDX-License-Identifier: Apache-2.0
"""Appending a token: its key, value and query, its part in what its unit chooses by, the summary of a full block."""

from __future__ import annotations

from math import e, log2

import triton
import triton.language as tl
from torch import Tensor

from ...kept import DecodeTensors
from ...options import SpanOptions
from ..launch import launch_for, padded
from ..summary import key_vectors, landmark_on_device, spread_feature


def append(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kept: DecodeTensors,
    options: SpanOptions,
    scale: float,
) -> Tensor:
    """Change all that is kept but the lengths, and give the features that choose, `[B, Hkv, W]` float32."""
    batch, kv_heads, capacity, head_dim = kept.key_cache.shape
    sums = kept.sums
    if sums.shape[1] == 0:  # A token that chooses by itself is a unit of its own.
        sums = sums.new_empty(batch, 1, *sums.shape[2:])
    launch = launch_for("decode_append", head_dim, query.dtype, query.device)
    landmark = None
    if options.summary == "landmark":
        landmark = landmark_on_device(head_dim, options.seed, query.device)
    _append[(kv_heads, batch)](
        query,
        key,
        value,
        kept.key_cache,
        kept.value_cache,
        kept.queries,
        kept.summaries,
        sums,
        kept.lengths,
        landmark,
        scale,
        scale * log2(e),
        capacity,
        kept.queries.shape[2],
        query.shape[1] // kv_heads,
        *query.stride()[:2],
        *key.stride()[:2],
        *value.stride()[:2],
        SUMMARY=options.summary if options.retrieves else None,
        KEEPS_QUERIES=kept.queries.shape[2] > 0,
        KINDS=sums.shape[1],
        VECTORS=sums.shape[3] // head_dim,
        UNIT_SIZE=options.unit_size,
        BLOCK_SIZE=options.block_size,
        ROWS=min(launch.block_m, options.block_size),
        COLUMNS=min(launch.block_n, padded(head_dim)),
        **launch.settings(head_dim),
    )
    return sums[:, -1]


@triton.jit(do_not_specialize=["capacity", "slots", "groups"])
def _append(
    query,
    key,
    value,
    key_cache,
    value_cache,
    queries,
    summaries,
    sums,
    lengths,
    landmark,
    scale,
    factor,
    capacity,
    slots,
    groups,
    query_b,
    query_h,
    key_b,
    key_h,
    value_b,
    value_h,
    SUMMARY: tl.constexpr,
    KEEPS_QUERIES: tl.constexpr,
    KINDS: tl.constexpr,
    VECTORS: tl.constexpr,
    UNIT_SIZE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    kv_head = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1).to(tl.int64)
    problem = row * tl.num_programs(0) + kv_head
    position = tl.load(lengths + row)
    if position >= capacity:
        return

    dim = tl.arange(0, BLOCK_D)
    inside = dim < HEAD_DIM
    key_cache += problem * capacity * HEAD_DIM
    value_cache += problem * capacity * HEAD_DIM
    k = tl.load(key + row * key_b + kv_head * key_h + dim, inside)
    v = tl.load(value + row * value_b + kv_head * value_h + dim, inside)
    tl.store(key_cache + position.to(tl.int64) * HEAD_DIM + dim, k, inside)
    tl.store(value_cache + position.to(tl.int64) * HEAD_DIM + dim, v, inside)
    total = tl.zeros([BLOCK_D], tl.float32)
    spread = tl.zeros([BLOCK_D], tl.float32)
    for member in range(groups):
        q = tl.load(query + row * query_b + (kv_head * groups + member) * query_h + dim, inside, other=0.0)
        if KEEPS_QUERIES:
            slot = (problem * groups + member) * slots + position % slots
            tl.store(queries + slot * HEAD_DIM + dim, q, inside)
        q = q.to(tl.float32)
        total += q
        spread += spread_feature(q, scale, SUMMARY)

    if SUMMARY is not None:
        WIDTH: tl.constexpr = VECTORS * HEAD_DIM
        sums += (row * KINDS * tl.num_programs(0) + kv_head) * WIDTH + dim
        before = sums + tl.num_programs(0) * WIDTH
        opens = position % UNIT_SIZE == 0
        _add_to_sum(sums, before, total, opens, inside, KINDS)
        if VECTORS == 2:
            _add_to_sum(sums + HEAD_DIM, before + HEAD_DIM, spread, opens, inside, KINDS)

        if (position + 1) % BLOCK_SIZE == 0:
            # The token is read back from memory, by other threads than those that wrote it.
            tl.debug_barrier()
            token = tl.arange(0, BLOCK_SIZE)
            first = (position // BLOCK_SIZE * BLOCK_SIZE).to(tl.int64)
            block_keys = key_cache + (first + token)[:, None] * HEAD_DIM
            summary = summaries + (problem * (capacity // BLOCK_SIZE) + position // BLOCK_SIZE) * WIDTH
            if SUMMARY != "attention" and SUMMARY != "landmark":
                for begin in range(0, BLOCK_D, COLUMNS):
                    at = begin + tl.arange(0, COLUMNS)[None, :]
                    tile = tl.load(block_keys + at, at < HEAD_DIM, other=0.0).to(tl.float32)
                    centre, width = key_vectors(tile[None, :, :], SUMMARY, BLOCK_SIZE)
                    tl.store(summary + at, centre, at < HEAD_DIM)
                    if VECTORS == 2:
                        tl.store(summary + HEAD_DIM + at, width, at < HEAD_DIM)
            else:
                block_values = value_cache + (first + token)[:, None] * HEAD_DIM
                if SUMMARY == "landmark":
                    scores = tl.zeros([BLOCK_SIZE], tl.float32)
                    for begin in range(0, BLOCK_D, COLUMNS):
                        at = begin + tl.arange(0, COLUMNS)
                        tile = tl.load(block_keys + at[None, :], (at < HEAD_DIM)[None, :], other=0.0).to(tl.float32)
                        scores += tl.sum(tile * tl.load(landmark + at, at < HEAD_DIM, other=0.0)[None, :], 1)
                    weights = tl.exp2((scores - tl.max(scores, 0)) * factor)
                    weights = weights / tl.sum(weights, 0)
                else:
                    # The mean over rows commutes with the product by V: only one row of weights is left to multiply.
                    weights = tl.zeros([BLOCK_SIZE], tl.float32)
                    for begin_row in range(0, groups * BLOCK_SIZE, ROWS):
                        asker = begin_row + tl.arange(0, ROWS)
                        slot = (problem * groups + asker // BLOCK_SIZE) * slots + (first + asker % BLOCK_SIZE) % slots
                        products = tl.zeros([ROWS, BLOCK_SIZE], tl.float32)
                        for begin in range(0, BLOCK_D, COLUMNS):
                            at = begin + tl.arange(0, COLUMNS)
                            real = (at < HEAD_DIM)[None, :]
                            q = tl.load(queries + slot[:, None] * HEAD_DIM + at[None, :], real, other=0.0)
                            tile = tl.load(block_keys + at[None, :], real, other=0.0)
                            products = tl.dot(q, tl.trans(tile), products, input_precision="tf32x3")
                        exponentials = tl.exp2((products - tl.max(products, 1)[:, None]) * factor)
                        weights += tl.sum(exponentials / tl.sum(exponentials, 1)[:, None], 0)
                    weights = weights / (groups * BLOCK_SIZE)
                for begin in range(0, BLOCK_D, COLUMNS):
                    at = begin + tl.arange(0, COLUMNS)
                    tile = tl.load(block_values + at[None, :], (at < HEAD_DIM)[None, :], other=0.0).to(tl.float32)
                    tl.store(summary + at, tl.sum(weights[:, None] * tile, 0), at < HEAD_DIM)


@triton.jit
def _add_to_sum(sums, before, new, opens, inside, KINDS: tl.constexpr):
    """Add to a unit's sum, or begin the next one."""
    old = tl.load(sums, inside, other=0.0)
    if KINDS == 2:
        tl.store(before, old, inside & opens)
    tl.store(sums, tl.where(opens, new, old + new), inside)
