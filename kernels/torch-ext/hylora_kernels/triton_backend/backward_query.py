# SPDX-License-Identifier: Apache-2.0
"""Gradient of the queries: the forward's walk over retrieved blocks and own chunk, with its weights recomputed.

With P the weights, dP = dO V^T and delta = rowsum(dO * O), the gradient of the scores is dS = P * (dP - delta), and
dQ = scale dS K. A gradient of the log-sum-exp is one more term in the brackets. The gradients of keys and values need
the same two numbers for each query, which are kept for them.
"""

from __future__ import annotations

from typing import Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..saved import Saved
from ..scoring import Scoring
from .columns import CHUNK_START, READER_WIDTH, SEQUENCE_START
from .launch import launch_for
from .pieces import add_products, dot_pieces, load_pieces, piece_columns, store_pieces, zero_pieces
from .scores import score_factors, softcapped, uncapped_gradient
from .tables import SpanTables, reader_lists
from .tiles import list_length, listed_tokens, read_run, reader_tile, tile_rows, vector_at

# Queries of which other kernels read the statistics at a time.
LARGEST_TILE = 128


def query_gradient(
    grad: Tensor,
    saved: Saved,
    tables: SpanTables,
    scoring: Scoring,
    block_size: int,
    lse_grad: Optional[Tensor] = None,
    own_chunk: bool = True,
    own: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor]:
    """Gradient of the queries; arguments as in `attention_backward`, `grad` with contiguous rows.

    `own` is the own chunks' share of it, if a library computed that; what was retrieved is added in place. Blocks that
    were chosen by units which are no readers do not count.

    Returns:
        The gradient in the query's shape, strides and dtype, 0 at padded positions; and `[2, B * Hq * L]` float32,
        longer by a tile: for each query the log-sum-exp in base 2, and delta less the gradient of the log-sum-exp if
        there is one; 0 at padded positions and at the end.
    """
    query, key, value, output, lse, chosen = saved
    heads, length, head_dim = query.shape[1:]
    kv_heads, groups = key.shape[1], heads // key.shape[1]
    readers = tables.readers.shape[0]
    listed = reader_lists(chosen, tables)
    query_grad = own
    if own is None:
        query_grad = torch.empty_like(query) if tables.covered else torch.zeros_like(query)
    # Other kernels look at whole tiles of queries, past the last one too, and what they see there must be finite.
    statistics = lse.new_zeros(2, triton.cdiv(lse.numel(), LARGEST_TILE) * LARGEST_TILE + LARGEST_TILE)
    if readers == 0:
        return query_grad, statistics

    launch = launch_for("backward_query", head_dim, query.dtype, query.device)
    rows, heads_per_tile = tile_rows(launch, tables.reader_size, groups)
    tiles = triton.cdiv(tables.reader_size, rows)
    warps = min(launch.num_warps, max(4, rows * heads_per_tile // 16))
    grid = (readers * tiles * (groups // heads_per_tile), kv_heads)
    _query_gradient[grid](
        grad,
        query,
        key,
        value,
        output,
        lse,
        None if lse_grad is None else lse_grad.contiguous(),
        query_grad,
        *statistics,
        listed,
        tables.readers,
        scoring.scale,
        *score_factors(scoring),
        listed.shape[2],
        readers,
        tiles,
        groups,
        grad.stride(),
        query.stride(),
        key.stride(),
        value.stride(),
        output.stride(),
        query_grad.stride(),
        *lse.stride(),
        heads,
        length,
        OWN_CHUNK=own_chunk and own is None,
        GIVEN=own is not None,
        BLOCK_SIZE=block_size,
        ROWS=rows,
        HEADS=heads_per_tile,
        BLOCK_N=launch.block_n,
        **launch._replace(num_warps=warps).piece_settings(head_dim),
    )
    return query_grad, statistics


@triton.jit(do_not_specialize=["capacity", "readers", "tiles", "groups", "heads", "length", "lse_b", "lse_h", "lse_l"])
def _query_gradient(
    grad,
    query,
    key,
    value,
    output,
    lse,
    lse_grad,
    query_grad,
    log_totals,
    deltas,
    blocks,
    table,
    scale,
    factor,
    cap_factor,
    capacity,
    readers,
    tiles,
    groups,
    grad_strides,
    query_strides,
    key_strides,
    value_strides,
    output_strides,
    query_grad_strides,
    lse_b,
    lse_h,
    lse_l,
    heads,
    length,
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

    place = tl.arange(0, HEADS * ROWS)
    head = (first_head + place // ROWS).to(tl.int64)
    position = start + place % ROWS
    at = position.to(tl.int64)
    real = position < end
    column = tl.arange(0, BLOCK_N)
    columns = piece_columns(WIDTHS)

    query += vector_at(query_strides, row, head, at)[:, None]
    grad += vector_at(grad_strides, row, head, at)[:, None]
    output += vector_at(output_strides, row, head, at)[:, None]
    do = load_pieces(grad, columns, real, True, HEAD_DIM, WIDTHS)
    o = load_pieces(output, columns, real, True, HEAD_DIM, WIDTHS)
    delta = 0.0
    for i in tl.static_range(len(WIDTHS)):
        delta += tl.sum(do[i].to(tl.float32) * o[i].to(tl.float32), 1)
    log_total = tl.load(lse + row * lse_b + head * lse_h + at * lse_l, real, other=0.0) * 1.4426950408889634
    kept = (row * heads + head) * length + at
    if lse_grad is not None:
        delta -= tl.load(lse_grad + kept, real, other=0.0)
    tl.store(log_totals + kept, log_total, real)
    tl.store(deltas + kept, delta, real)

    # Retrieved blocks, their tokens counted through the list.
    own_list = (kv_head.to(tl.int64) * readers + reader) * capacity
    tokens = BLOCK_SIZE * list_length(blocks + own_list, capacity)
    if GIVEN and tokens == 0:
        return
    q = load_pieces(query, columns, real, True, HEAD_DIM, WIDTHS)
    key += row * key_strides[0] + kv_head.to(tl.int64) * key_strides[1]
    value += row * value_strides[0] + kv_head.to(tl.int64) * value_strides[1]
    if GIVEN:
        given = query_grad + vector_at(query_grad_strides, row, head, at)[:, None]
        own = load_pieces(given, columns, real, True, HEAD_DIM, WIDTHS)
        dq = [x.to(tl.float32) / scale for x in own]
        tl.debug_barrier()  # as in merge_slots
    else:
        dq = zero_pieces(HEADS * ROWS, WIDTHS)
    listed = listed_tokens(blocks + own_list, sequence_start, 0, tokens, BLOCK_SIZE, BLOCK_N)
    for first in range(0, tokens, BLOCK_N):
        k = load_pieces(key + listed[:, None] * key_strides[2], columns, None, False, HEAD_DIM, WIDTHS)
        v = load_pieces(value + listed[:, None] * value_strides[2], columns, None, False, HEAD_DIM, WIDTHS)
        products = softcapped(dot_pieces(q, k), cap_factor)
        products = tl.where((first + column < tokens)[None, :], products, float("-inf"))
        _, ds = weights_and_gradients(products, do, v, log_total[:, None], delta[:, None], factor, cap_factor)
        dq = add_products(ds.to(k[0].dtype), k, dq)
        # Looked up a step ahead: loads that wait for other loads of the same step would take stages of the pipeline.
        listed = listed_tokens(blocks + own_list, sequence_start, first + BLOCK_N, tokens, BLOCK_SIZE, BLOCK_N)

    # The own chunk up to the diagonal.
    if OWN_CHUNK:
        for first in range(chunk_start, tl.minimum(start + ROWS, end), BLOCK_N):
            source = first + column
            # Beyond the reader there may be padding with any content: even with no weight it must not be read.
            at_source = source.to(tl.int64)[:, None]
            k = load_pieces(key + at_source * key_strides[2], columns, source < end, True, HEAD_DIM, WIDTHS)
            v = load_pieces(value + at_source * value_strides[2], columns, source < end, True, HEAD_DIM, WIDTHS)
            products = softcapped(dot_pieces(q, k), cap_factor)
            if first + BLOCK_N > start:
                products = tl.where(source[None, :] <= position[:, None], products, float("-inf"))
            _, ds = weights_and_gradients(products, do, v, log_total[:, None], delta[:, None], factor, cap_factor)
            dq = add_products(ds.to(k[0].dtype), k, dq)

    query_grad += vector_at(query_grad_strides, row, head, at)[:, None]
    dq = [x * scale for x in dq]
    store_pieces(query_grad, columns, dq, real, HEAD_DIM)


@triton.jit
def weights_and_gradients(products, left, right, log_total, delta, factor, cap_factor=None):
    """Weights of the softcapped products of queries and keys, and the gradient of the scores before the softcap.

    Left and right are dO and V or the reverse, tuples of pieces.
    """
    weights = tl.exp2(products * factor - log_total)
    # Triton loads ahead what the factors of a product come from, and not what it is added to.
    slopes = weights * (dot_pieces(left, right) - delta)
    return weights, uncapped_gradient(slopes, products, cap_factor)
