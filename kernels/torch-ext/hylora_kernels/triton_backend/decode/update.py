# SPDX-License-Identifier: Apache-2.0
"""Appending a token: its key, value and query, the sum of its unit's queries, the summary of a block it completes."""

from __future__ import annotations

from math import e, log2

import triton
import triton.language as tl
from torch import Tensor

from ...options import SpanOptions
from ...state import DecodeTensors
from ..launch import launch_for, padded
from ..summary import landmark_on_device


def append(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kept: DecodeTensors,
    options: SpanOptions,
    scale: float,
):
    """Change all that is kept but the lengths."""
    batch, kv_heads, capacity, head_dim = kept.key_cache.shape
    launch = launch_for("decode_append", head_dim, query.dtype, query.device)
    landmark = None
    if options.summary == "landmark":
        landmark = landmark_on_device(head_dim, options.seed, query.device)
    _append[(kv_heads, batch)](
        query,
        key,
        value,
        *kept,
        landmark,
        scale * log2(e),
        capacity,
        kept.queries.shape[2],
        query.shape[1] // kv_heads,
        *query.stride()[:2],
        *key.stride()[:2],
        *value.stride()[:2],
        SUMMARY=options.summary if options.retrieves else None,
        UNIT_SIZE=options.unit_size,
        BLOCK_SIZE=options.block_size,
        ROWS=min(launch.block_m, options.block_size),
        COLUMNS=min(launch.block_n, padded(head_dim)),
        **launch.settings(head_dim),
    )


@triton.jit(do_not_specialize=["capacity", "slots", "groups"])
def _append(
    query,
    key,
    value,
    key_cache,
    value_cache,
    queries,
    summaries,
    unit_sum,
    previous_sum,
    lengths,
    landmark,
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
    for member in range(groups):
        q = tl.load(query + row * query_b + (kv_head * groups + member) * query_h + dim, inside, other=0.0)
        slot = (problem * groups + member) * slots + position % slots
        tl.store(queries + slot * HEAD_DIM + dim, q, inside)
        total += q.to(tl.float32)

    if SUMMARY is not None:
        place = problem * HEAD_DIM + dim
        before = tl.load(unit_sum + place, inside, other=0.0)
        opens = position % UNIT_SIZE == 0
        tl.store(previous_sum + place, before, inside & opens)
        tl.store(unit_sum + place, tl.where(opens, total, before + total), inside)

        if (position + 1) % BLOCK_SIZE == 0:
            # The token is read back from memory, by other threads than those that wrote it.
            tl.debug_barrier()
            token = tl.arange(0, BLOCK_SIZE)
            first = (position // BLOCK_SIZE * BLOCK_SIZE).to(tl.int64)
            block_keys = key_cache + (first + token)[:, None] * HEAD_DIM
            block_values = value_cache + (first + token)[:, None] * HEAD_DIM
            if SUMMARY == "mean_key":
                weights = tl.full([BLOCK_SIZE], 1.0 / BLOCK_SIZE, tl.float32)
                block_values = block_keys
            elif SUMMARY == "landmark":
                scores = tl.zeros([BLOCK_SIZE], tl.float32)
                for begin in range(0, BLOCK_D, COLUMNS):
                    at = begin + tl.arange(0, COLUMNS)
                    tile = tl.load(block_keys + at[None, :], (at < HEAD_DIM)[None, :], other=0.0).to(tl.float32)
                    scores += tl.sum(tile * tl.load(landmark + at, at < HEAD_DIM, other=0.0)[None, :], 1)
                weights = tl.exp2((scores - tl.max(scores, 0)) * factor)
                weights = weights / tl.sum(weights, 0)
            else:
                # The mean over rows commutes with the product by V, so only one row of weights is left to multiply.
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
            summary = summaries + (problem * (capacity // BLOCK_SIZE) + position // BLOCK_SIZE) * HEAD_DIM
            for begin in range(0, BLOCK_D, COLUMNS):
                at = begin + tl.arange(0, COLUMNS)
                tile = tl.load(block_values + at[None, :], (at < HEAD_DIM)[None, :], other=0.0).to(tl.float32)
                tl.store(summary + at, tl.sum(weights[:, None] * tile, 0), at < HEAD_DIM)
