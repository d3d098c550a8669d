# SPDX-License-Identifier: Apache-2.0
"""The gradients of attention of small units to the blocks they chose, in one walk over the queries of each block.

A run of queries gives each of its pairs a share of the gradient of the query, and its block a share of the gradients
of keys and values. Shares of queries are added up slot by slot, those of blocks run by run: always in the same order.
"""

from __future__ import annotations

from itertools import groupby
from typing import Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..saved import Saved
from ..scoring import Scoring
from .backward_query import weights_and_gradients
from .inverse import Runs, cut_into_runs
from .launch import launch_for, padded
from .merge import merge_slots
from .pairs import PairSlice, block_of_row, pair_queries, pair_slices, pair_tile, run_of_entries
from .scores import score_factors, softcapped
from .sum_runs import add_runs
from .tables import SpanTables
from .tiles import load_tile, vector_at


def add_pair_gradients(
    grad: Tensor,
    saved: Saved,
    statistics: Tensor,
    gradients: Tuple[Tensor, Tensor, Tensor],
    tables: SpanTables,
    scoring: Scoring,
    block_size: int,
):
    """Add what the choices of small units contribute to the gradients of query, key and value, in place.

    Arguments are those of `attention_backward`, the statistics from `query_gradient`, and what own chunks gave.
    """
    query, key, value, _, _, chosen = saved
    query_grad, key_grad, value_grad = gradients
    heads, length, head_dim = query.shape[1:]
    slices = pair_slices(chosen, tables, heads // key.shape[1], head_dim)
    for own, parts in groupby(slices, key=lambda part: part.kv_heads):
        # Sums over slices, in float32 until they are whole.
        sums = torch.zeros(2, *key[:, own].shape, dtype=torch.float32, device=key.device)
        for part in parts:
            of_part = [x[:, part.heads] for x in (grad, query)] + [x[:, own] for x in (key, value)]
            kept = statistics[:, part.heads.start * length :]
            share, of_runs, runs = _differentiate(*of_part, kept, heads, part, tables, scoring, block_size)
            merge_slots(query_grad, None, share, None, part)
            for which in range(2):
                add_runs(of_runs[:, which], runs, sums[which], tables)
        key_grad[:, own] += sums[0]
        value_grad[:, own] += sums[1]


def _differentiate(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    statistics: Tensor,
    heads: int,
    part: PairSlice,
    tables: SpanTables,
    scoring: Scoring,
    block_size: int,
) -> Tuple[Tensor, Tensor, Runs]:
    """Each pair's gradient of its queries `[Hkv, units, top_k, unit_size, G, D]`, and each run's of the keys and the
    values of its block `[runs, 2, block_size, D]` float32."""
    kv_heads, head_dim = key.shape[1], key.shape[3]
    groups = query.shape[1] // kv_heads
    launch = launch_for("backward_pairs", head_dim, query.dtype, query.device)
    tile = pair_tile(launch, tables.unit_size, groups)
    runs = cut_into_runs(part.inverse, tile["SIZE"])
    warps = min(8, launch.num_warps * max(1, block_size // 32))  # which share the gradients of a block's keys
    share = query.new_empty(*part.chosen.shape, tables.unit_size, groups, head_dim)
    of_runs = torch.empty(runs.rows.shape[0], 2, block_size, head_dim, dtype=torch.float32, device=key.device)
    _differentiate_pairs[(runs.rows.shape[0],)](
        grad,
        query,
        key,
        value,
        *statistics,
        share,
        of_runs,
        *runs,
        *part.inverse,
        tables.blocks,
        part.units,
        scoring.scale,
        *score_factors(scoring),
        tables.blocks.shape[0],
        kv_heads,
        part.chosen.shape[1],
        part.chosen.shape[2],
        groups,
        grad.stride(),
        query.stride(),
        key.stride(),
        value.stride(),
        heads,
        query.shape[2],
        BLOCK_SIZE=block_size,
        KEYS=padded(block_size),
        **tile,
        **launch._replace(num_warps=warps).settings(head_dim),
    )
    return share, of_runs, runs


@triton.jit(do_not_specialize=["block_count", "kv_heads", "units", "top_k", "groups", "heads", "length"])
def _differentiate_pairs(
    grad,
    query,
    key,
    value,
    log_totals,
    deltas,
    share,
    of_runs,
    run_rows,
    first_runs,
    offsets,
    entries,
    block_table,
    unit_table,
    scale,
    factor,
    cap_factor,
    block_count,
    kv_heads,
    units,
    top_k,
    groups,
    grad_strides,
    query_strides,
    key_strides,
    value_strides,
    heads,
    length,
    UNIT_SIZE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    KEYS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    PAIRS: tl.constexpr,
    HEADS: tl.constexpr,
):
    listed, start, end = run_of_entries(run_rows, first_runs, offsets, kv_heads * block_count, SIZE)
    if start >= end:
        return
    kv_head, row, block_start = block_of_row(block_table, listed, block_count)
    dim = tl.arange(0, BLOCK_D)
    place = tl.arange(0, KEYS)
    source = (block_start + place).to(tl.int64)
    keys = key + vector_at(key_strides, row, kv_head, source)[:, None] + dim[None, :]
    values = value + vector_at(value_strides, row, kv_head, source)[:, None] + dim[None, :]
    k = load_tile(keys, place < BLOCK_SIZE, KEYS != BLOCK_SIZE, HEAD_DIM, BLOCK_D)
    v = load_tile(values, place < BLOCK_SIZE, KEYS != BLOCK_SIZE, HEAD_DIM, BLOCK_D)
    # Transposed: a matrix unit wants 64 rows or more, and a block may have fewer keys.
    dk = tl.zeros([BLOCK_D, KEYS], tl.float32)
    dv = tl.zeros([BLOCK_D, KEYS], tl.float32)
    head_tiles = groups // HEADS
    for step in range(tl.cdiv(end - start, PAIRS) * head_tiles):
        first = start + step // head_tiles * PAIRS
        pair, position, head, token, asks = pair_queries(
            entries, first, end, unit_table, top_k, UNIT_SIZE, ROWS, PAIRS, HEADS
        )
        head = kv_head * groups + step % head_tiles * HEADS + head
        at = position.to(tl.int64)
        asking = query + vector_at(query_strides, row, head, at)[:, None] + dim[None, :]
        q = load_tile(asking, asks, True, HEAD_DIM, BLOCK_D)
        given = grad + vector_at(grad_strides, row, head, at)[:, None] + dim[None, :]
        do = load_tile(given, asks, True, HEAD_DIM, BLOCK_D)
        kept = (row * heads + head) * length + at
        # Queries that do not exist get no weights.
        log_total = tl.load(log_totals + kept, asks, other=float("inf"))[:, None]
        delta = tl.load(deltas + kept, asks, other=0.0)[:, None]
        products = softcapped(tl.dot(q, tl.trans(k), input_precision="ieee"), cap_factor)
        if KEYS != BLOCK_SIZE:
            products = tl.where((place < BLOCK_SIZE)[None, :], products, float("-inf"))
        weights, ds = weights_and_gradients(products, (do,), (v,), log_total, delta, factor, cap_factor)
        dv = tl.dot(tl.trans(do), weights.to(do.dtype), dv, input_precision="ieee")
        dk = tl.dot(tl.trans(q), ds.to(q.dtype), dk, input_precision="ieee")
        dq = tl.dot(ds.to(k.dtype), k, input_precision="ieee") * scale
        at = ((kv_head * units * top_k + pair) * UNIT_SIZE + token) * groups + head - kv_head * groups
        inside = asks[:, None] & (dim < HEAD_DIM)[None, :]
        tl.store(share + at[:, None] * HEAD_DIM + dim[None, :], dq.to(share.dtype.element_ty), inside)

    of_runs += (tl.program_id(0).to(tl.int64) * 2 * BLOCK_SIZE + place)[None, :] * HEAD_DIM + dim[:, None]
    inside = (dim < HEAD_DIM)[:, None] & (place < BLOCK_SIZE)[None, :]
    tl.store(of_runs, dk * scale, inside)
    tl.store(of_runs + BLOCK_SIZE * HEAD_DIM, dv, inside)
