# SPDX-License-Identifier: Apache-2.0
"""Attention of each query to its retrieved blocks and, causally, to its own chunk, under one softmax (6.1 to 6.4).

One program computes a tile: some rows of one reader, for one query head or, where readers are short, several heads
that share a KV head. Keys and values are read where they lie. Scores are in base 2: `exp2` is what the hardware has.
"""

from __future__ import annotations

from typing import Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..scoring import Scoring
from .columns import CHUNK_START, READER_WIDTH, SEQUENCE_START
from .forward_pairs import add_retrieved
from .launch import launch_for
from .pieces import add_pieces, add_products, dot_pieces, load_pieces, piece_columns, store_pieces, zero_pieces
from .scores import score_factors, softcapped
from .tables import SpanTables, reader_lists
from .tiles import list_length, listed_tokens, read_run, reader_tile, tile_rows, vector_at


def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    chosen: Tensor,
    tables: SpanTables,
    scoring: Scoring,
    block_size: int,
    own_chunk: bool = True,
    own: Optional[Tuple[Tensor, Tensor]] = None,
) -> Tuple[Tensor, Tensor]:
    """Span-expanded attention for given blocks (chapter 6, equations 6.1 to 6.4).

    Args:
        query: `[B, Hq, L, D]`; of all three, the last dimension is contiguous and the other strides are free.
        key: `[B, Hkv, L, D]`.
        value: `[B, Hkv, L, D]`.
        chosen: `[Hkv, units, top_k]` int32, the blocks that each unit reads, numbered from its sequence's start, -1 at
            the end; they are whole and lie before the unit's chunk.
        tables: those of the layout.
        scoring: scale and softcap of the scores.
        block_size: tokens in a block.
        own_chunk: whether queries attend to their own chunk too.
        own: output and log-sum-exp of own chunks, if a library computed them; what was retrieved is added in place.

    Returns:
        The output in the query's shape, strides and dtype, and the natural logarithm of each query's softmax
        denominator, `[B, Hq, L]` float32. Where a query sees nothing, as at padding, they are exactly 0 and -inf.
    """
    readers = tables.readers.shape[0]
    listed = reader_lists(chosen, tables)
    if own is None:
        output = torch.empty_like(query) if tables.covered else torch.zeros_like(query)
        lse = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
        if not tables.covered:
            lse.fill_(float("-inf"))
    else:
        output, lse = own
    if readers and (own is None or listed.shape[2]):
        given = own is not None
        _attend_readers(query, key, value, output, lse, listed, tables, scoring, block_size, own_chunk, given)
    if not tables.shared:
        add_retrieved(query, key, value, output, lse, chosen, tables, scoring, block_size)
    return output, lse


def _attend_readers(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    listed: Tensor,
    tables: SpanTables,
    scoring: Scoring,
    block_size: int,
    own_chunk: bool,
    given: bool,
):
    """Write output and log-sum-exp of each reader's attention to its own chunk and list of blocks `[Hkv, readers, n]`.

    Other arguments are those of `attention_forward`; `given`: output and log-sum-exp hold the own chunk's.
    """
    kv_heads, head_dim = key.shape[1], query.shape[3]
    groups, readers = query.shape[1] // kv_heads, tables.readers.shape[0]
    launch = launch_for("forward", head_dim, query.dtype, query.device)
    rows, heads_per_tile = tile_rows(launch, tables.reader_size, groups)
    tiles = triton.cdiv(tables.reader_size, rows)
    # A tile that stays smaller takes fewer warps and keys, so that more programs fit side by side.
    shrink = launch.block_m // (rows * heads_per_tile)
    grid = (readers * tiles * (groups // heads_per_tile), kv_heads)
    _attention_forward[grid](
        query,
        key,
        value,
        output,
        lse,
        listed,
        tables.readers,
        *score_factors(scoring),
        listed.shape[2],
        readers,
        tiles,
        groups,
        query.stride(),
        key.stride(),
        value.stride(),
        output.stride(),
        *lse.stride()[:2],
        OWN_CHUNK=own_chunk and not given,
        GIVEN=given,
        BLOCK_SIZE=block_size,
        ROWS=rows,
        HEADS=heads_per_tile,
        BLOCK_N=max(16, launch.block_n // shrink),
        **launch._replace(num_warps=max(4, launch.num_warps // shrink)).piece_settings(head_dim),
    )


@triton.jit(do_not_specialize=["capacity", "readers", "tiles", "groups", "lse_b", "lse_h"])
def _attention_forward(
    query,
    key,
    value,
    output,
    lse,
    blocks,
    table,
    factor,
    cap_factor,
    capacity,
    readers,
    tiles,
    groups,
    query_strides,
    key_strides,
    value_strides,
    output_strides,
    lse_b,
    lse_h,
    OWN_CHUNK: tl.constexpr,
    GIVEN: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTHS: tl.constexpr,
    ROWS: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    reader, offset, kv_head, first_head = reader_tile(tiles, groups, ROWS, HEADS)
    row, reader_start, end = read_run(table, reader, READER_WIDTH)
    chunk_start = tl.load(table + reader * READER_WIDTH + CHUNK_START)
    sequence_start = tl.load(table + reader * READER_WIDTH + SEQUENCE_START)
    start = reader_start + offset
    if start >= end:
        return
    # Retrieved blocks, their tokens counted through the list.
    own_list = (kv_head.to(tl.int64) * readers + reader) * capacity
    tokens = BLOCK_SIZE * list_length(blocks + own_list, capacity)
    if GIVEN and tokens == 0:
        return

    place = tl.arange(0, HEADS * ROWS)
    head = (first_head + place // ROWS).to(tl.int64)
    position = start + place % ROWS
    real = position < end
    column = tl.arange(0, BLOCK_N)
    columns = piece_columns(WIDTHS)

    at = position.to(tl.int64)
    query += vector_at(query_strides, row, head, at)[:, None]
    q = load_pieces(query, columns, real, True, HEAD_DIM, WIDTHS)
    key += row * key_strides[0] + kv_head.to(tl.int64) * key_strides[1]
    value += row * value_strides[0] + kv_head.to(tl.int64) * value_strides[1]

    if GIVEN:
        # The own chunk counts as one key, whose score is its log-sum-exp and whose value is its output.
        own_score = tl.load(lse + row * lse_b + head * lse_h + position, real, other=0.0) * 1.4426950408889634
        pivot = own_score
        total = tl.full([HEADS * ROWS], 1.0, tl.float32)
    else:
        # A finite pivot: rows that have read nothing yet would otherwise subtract infinities.
        pivot = tl.full([HEADS * ROWS], -3.0e38, tl.float32)
        total = tl.zeros([HEADS * ROWS], tl.float32)
    mixed = zero_pieces(HEADS * ROWS, WIDTHS)

    listed = listed_tokens(blocks + own_list, sequence_start, 0, tokens, BLOCK_SIZE, BLOCK_N)
    for first in range(0, tokens, BLOCK_N):
        k = load_pieces(key + listed[:, None] * key_strides[2], columns, None, False, HEAD_DIM, WIDTHS)
        v = load_pieces(value + listed[:, None] * value_strides[2], columns, None, False, HEAD_DIM, WIDTHS)
        seen = (first + column < tokens)[None, :]
        pivot, total, mixed = _attend(q, k, v, seen, True, factor, cap_factor, pivot, total, mixed)
        # Looked up a step ahead: loads that wait for other loads of the same step would take stages of the pipeline.
        listed = listed_tokens(blocks + own_list, sequence_start, first + BLOCK_N, tokens, BLOCK_SIZE, BLOCK_N)

    # The own chunk: whole tiles before the first query without a mask, then the diagonal.
    if OWN_CHUNK:
        key += chunk_start.to(tl.int64) * key_strides[2]
        value += chunk_start.to(tl.int64) * value_strides[2]
        key_tile = [column[:, None] * key_strides[2] + x for x in columns]
        value_tile = [column[:, None] * value_strides[2] + x for x in columns]
        diagonal = chunk_start + (start - chunk_start) // BLOCK_N * BLOCK_N
        for _ in range(chunk_start, diagonal, BLOCK_N):
            k = load_pieces(key, key_tile, None, False, HEAD_DIM, WIDTHS)
            v = load_pieces(value, value_tile, None, False, HEAD_DIM, WIDTHS)
            pivot, total, mixed = _attend(q, k, v, None, False, factor, cap_factor, pivot, total, mixed)
            key += BLOCK_N * key_strides[2]
            value += BLOCK_N * value_strides[2]
        for first in range(diagonal, tl.minimum(start + ROWS, end), BLOCK_N):
            source = first + column
            # Beyond the reader there may be padding with any content: even with no weight it must not be read.
            k = load_pieces(key, key_tile, source < end, True, HEAD_DIM, WIDTHS)
            v = load_pieces(value, value_tile, source < end, True, HEAD_DIM, WIDTHS)
            seen = source[None, :] <= position[:, None]
            pivot, total, mixed = _attend(q, k, v, seen, True, factor, cap_factor, pivot, total, mixed)
            key += BLOCK_N * key_strides[2]
            value += BLOCK_N * value_strides[2]

    output += vector_at(output_strides, row, head, at)[:, None]
    if GIVEN:
        weight = tl.exp2(own_score - pivot)[:, None]
        own = load_pieces(output, columns, real, True, HEAD_DIM, WIDTHS)
        tl.debug_barrier()  # as in merge_slots
        mixed = add_pieces(mixed, [x.to(tl.float32) * weight for x in own])
    if OWN_CHUNK or GIVEN:
        divisor = total
    else:  # a query may see nothing
        divisor = tl.where(total > 0, total, 1.0)
    store_pieces(output, columns, [x / divisor[:, None] for x in mixed], real, HEAD_DIM)
    lse += row * lse_b + head * lse_h + position
    tl.store(lse, (pivot + tl.log2(total)) * 0.6931471805599453, real)


@triton.jit
def _attend(q, k, v, seen, MASKED: tl.constexpr, factor, cap_factor, pivot, total, mixed):
    """One step of the online softmax over a tile of keys."""
    products = softcapped(dot_pieces(q, k), cap_factor)
    if MASKED:
        products = tl.where(seen, products, float("-inf"))
    higher = tl.maximum(pivot, tl.max(products, 1) * factor)
    weights = tl.exp2(products * factor - higher[:, None])
    shrink = tl.exp2(pivot - higher)
    total = total * shrink + tl.sum(weights, 1)
    mixed = add_products(weights.to(v[0].dtype), v, [x * shrink[:, None] for x in mixed])
    return higher, total, mixed
