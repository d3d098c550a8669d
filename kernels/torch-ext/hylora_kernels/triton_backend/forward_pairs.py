# SPDX-License-Identifier: Apache-2.0
"""Attention of small units to the blocks they chose: a program takes a block and a run of the queries that read it."""

from __future__ import annotations

from typing import Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..scoring import Scoring
from .inverse import cut_into_runs
from .launch import launch_for, padded
from .merge import merge_slots
from .pairs import PairSlice, block_of_row, pair_queries, pair_slices, pair_tile, run_of_entries
from .scores import score_factors, softcapped
from .tables import SpanTables
from .tiles import load_tile, vector_at


def add_retrieved(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    chosen: Tensor,
    tables: SpanTables,
    scoring: Scoring,
    block_size: int,
):
    """Merge attention to retrieved blocks into that to own chunks, in place.

    Arguments are those of `attention_forward`, and the output and log-sum-exp so far.
    """
    for part in pair_slices(chosen, tables, query.shape[1] // key.shape[1], query.shape[3]):
        of_part = (query[:, part.heads], key[:, part.kv_heads], value[:, part.kv_heads])
        merge_slots(output, lse, *_attend(*of_part, part, tables, scoring, block_size), part)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    part: PairSlice,
    tables: SpanTables,
    scoring: Scoring,
    block_size: int,
) -> Tuple[Tensor, Tensor]:
    """Each pair's attention `[Hkv, units, top_k, unit_size, G, D]`, and its log-sum-exp without D, in base 2."""
    kv_heads, head_dim = key.shape[1], key.shape[3]
    groups = query.shape[1] // kv_heads
    share = query.new_empty(*part.chosen.shape, tables.unit_size, groups, head_dim)
    share_lse = torch.empty(share.shape[:-1], dtype=torch.float32, device=query.device)
    launch = launch_for("forward_pairs", head_dim, query.dtype, query.device)
    tile = pair_tile(launch, tables.unit_size, groups)
    runs = cut_into_runs(part.inverse, tile["SIZE"])
    _attend_pairs[(runs.rows.shape[0], groups // tile["HEADS"])](
        query,
        key,
        value,
        share,
        share_lse,
        *runs,
        *part.inverse,
        tables.blocks,
        part.units,
        *score_factors(scoring),
        tables.blocks.shape[0],
        kv_heads,
        part.chosen.shape[1],
        part.chosen.shape[2],
        groups,
        query.stride(),
        key.stride(),
        value.stride(),
        BLOCK_SIZE=block_size,
        KEYS=padded(block_size),
        **tile,
        **launch.settings(head_dim),
    )
    return share, share_lse


@triton.jit(do_not_specialize=["block_count", "kv_heads", "units", "top_k", "groups"])
def _attend_pairs(
    query,
    key,
    value,
    share,
    share_lse,
    run_rows,
    first_runs,
    offsets,
    entries,
    block_table,
    unit_table,
    factor,
    cap_factor,
    block_count,
    kv_heads,
    units,
    top_k,
    groups,
    query_strides,
    key_strides,
    value_strides,
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
    first_head = tl.program_id(1) * HEADS
    for first in range(start, end, PAIRS):
        pair, position, head, token, asks = pair_queries(
            entries, first, end, unit_table, top_k, UNIT_SIZE, ROWS, PAIRS, HEADS
        )
        head = first_head + head
        at = vector_at(query_strides, row, kv_head * groups + head, position.to(tl.int64))
        q = load_tile(query + at[:, None] + dim[None, :], asks, True, HEAD_DIM, BLOCK_D)
        products = softcapped(tl.dot(q, tl.trans(k), input_precision="ieee"), cap_factor) * factor
        if KEYS != BLOCK_SIZE:
            products = tl.where((place < BLOCK_SIZE)[None, :], products, float("-inf"))
        pivot = tl.max(products, 1)
        weights = tl.exp2(products - pivot[:, None])
        total = tl.sum(weights, 1)
        mixed = tl.dot(weights.to(v.dtype), v, input_precision="ieee") / total[:, None]
        at = ((kv_head * units * top_k + pair) * UNIT_SIZE + token) * groups + head
        tl.store(share_lse + at, pivot + tl.log2(total), asks)
        inside = asks[:, None] & (dim < HEAD_DIM)[None, :]
        tl.store(share + at[:, None] * HEAD_DIM + dim[None, :], mixed.to(share.dtype.element_ty), inside)
