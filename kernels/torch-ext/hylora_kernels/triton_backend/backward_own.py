# SPDX-License-Identifier: Apache-2.0
"""Gradients of keys and values from the queries of their own chunk."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..saved import Saved
from ..scoring import Scoring
from .backward_query import LARGEST_TILE, weights_and_gradients
from .columns import CHUNK_WIDTH
from .launch import launch_for, padded
from .pieces import add_products, dot_pieces, load_pieces, piece_columns, store_pieces, zero_pieces
from .scores import score_factors, softcapped
from .tables import SpanTables
from .tiles import read_run, vector_at


def own_gradients(
    grad: Tensor,
    saved: Saved,
    statistics: Tensor,
    key_grad: Tensor,
    value_grad: Tensor,
    tables: SpanTables,
    scoring: Scoring,
):
    """Write the gradients of keys and values within chunks, causal; padded positions are left as they are.

    Arguments are those of `attention_backward`, the statistics from `query_gradient`, and what is written.
    """
    query, key, value = saved[:3]
    head_dim, kv_heads = key.shape[3], key.shape[1]
    launch = launch_for("backward_own", head_dim, query.dtype, query.device)
    if launch.block_m > LARGEST_TILE:
        raise ValueError(
            f"backward_own reads the statistics of block_m={launch.block_m} queries at a time, past the last one too, "
            f"and they end {LARGEST_TILE} behind it; give its launch a block_m of up to {LARGEST_TILE}"
        )
    block_n = min(launch.block_n, padded(tables.chunk_size))
    tiles = triton.cdiv(tables.chunk_size, block_n)
    if tiles == 0:
        return
    _own_gradients[(tables.chunks.shape[0] * tiles, kv_heads)](
        grad,
        query,
        key,
        value,
        *statistics,
        key_grad,
        value_grad,
        tables.chunks,
        scoring.scale,
        *score_factors(scoring),
        tiles,
        query.shape[1] // kv_heads,
        grad.stride(),
        query.stride(),
        key.stride(),
        value.stride(),
        key_grad.stride(),
        value_grad.stride(),
        *query.shape[1:3],
        BLOCK_M=launch.block_m,
        BLOCK_N=block_n,
        **launch.piece_settings(head_dim),
    )


@triton.jit(do_not_specialize=["tiles", "groups", "heads", "length"])
def _own_gradients(
    grad,
    query,
    key,
    value,
    log_totals,
    deltas,
    key_grad,
    value_grad,
    table,
    scale,
    factor,
    cap_factor,
    tiles,
    groups,
    grad_strides,
    query_strides,
    key_strides,
    value_strides,
    key_grad_strides,
    value_grad_strides,
    heads,
    length,
    HEAD_DIM: tl.constexpr,
    WIDTHS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # The first tiles of a chunk have the most queries and start first.
    chunk = tl.program_id(0) // tiles
    kv_head = tl.program_id(1).to(tl.int64)
    row, chunk_start, end = read_run(table, chunk, CHUNK_WIDTH)
    start = chunk_start + tl.program_id(0) % tiles * BLOCK_N
    if start >= end:
        return

    source = start + tl.arange(0, BLOCK_N)
    real = source < end
    at = source.to(tl.int64)[:, None]
    columns = piece_columns(WIDTHS)
    k = load_pieces(key + vector_at(key_strides, row, kv_head, at), columns, real, True, HEAD_DIM, WIDTHS)
    v = load_pieces(value + vector_at(value_strides, row, kv_head, at), columns, real, True, HEAD_DIM, WIDTHS)
    dk = zero_pieces(BLOCK_N, WIDTHS)
    dv = zero_pieces(BLOCK_N, WIDTHS)

    # All tiles of queries of all heads in one loop, so that its pipeline fills up once.
    steps = tl.cdiv(end - start, BLOCK_M)
    column = tl.arange(0, BLOCK_M)
    for step in range(steps * groups):
        head = kv_head * groups + step // steps
        first = start + step % steps * BLOCK_M
        place = (first + column).to(tl.int64)[:, None]
        asks = column < end - first
        asking = query + vector_at(query_strides, row, head, place)
        q = load_pieces(asking, columns, asks, True, HEAD_DIM, WIDTHS)
        given = grad + vector_at(grad_strides, row, head, place)
        do = load_pieces(given, columns, asks, True, HEAD_DIM, WIDTHS)
        # Each thread loads these for many queries. From one address, and without masks, it costs few registers, of
        # which there are none to spare. Queries that do not exist get no weights.
        kept = (row * heads + head) * length + first
        log_total = tl.where(asks, tl.load(log_totals + kept + column), float("inf"))
        delta = tl.load(deltas + kept + column)
        # Keys are rows: then the weights are a left operand as they are.
        products = softcapped(dot_pieces(k, q), cap_factor)
        products = tl.where((source - first)[:, None] <= column[None, :], products, float("-inf"))
        weights, ds = weights_and_gradients(products, v, do, log_total[None, :], delta[None, :], factor, cap_factor)
        dv = add_products(weights.to(do[0].dtype), do, dv)
        dk = add_products(ds.to(q[0].dtype), q, dk)

    key_grad += vector_at(key_grad_strides, row, kv_head, at)
    value_grad += vector_at(value_grad_strides, row, kv_head, at)
    store_pieces(key_grad, columns, [x * scale for x in dk], real, HEAD_DIM)
    store_pieces(value_grad, columns, dv, real, HEAD_DIM)
