# SPDX-License-Identifier: Apache-2.0
"""Gradients of keys and values from the readers of later chunks that retrieved their block.

One program owns a block (or, of a large one, some of its keys), walks the list of its readers and adds the sum to what
its own chunk gave: no atomics, always the same order, the same bits.
"""

from __future__ import annotations

from math import e, log2

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..saved import Saved
from .backward_query import weights_and_gradients
from .columns import BLOCK_WIDTH, FIRST, READER_WIDTH, ROW, TOKENS
from .inverse import inverse_lists
from .launch import launch_for
from .tables import SpanTables
from .tiles import load_tile, tile_rows, vector_at


def add_retrieved_gradients(
    grad: Tensor,
    saved: Saved,
    statistics: Tensor,
    key_grad: Tensor,
    value_grad: Tensor,
    tables: SpanTables,
    scale: float,
    block_size: int,
):
    """Add to the gradients of keys and values what the readers of their blocks contribute.

    Arguments are those of `own_gradients`; readers are units.
    """
    query, key, value, _, _, chosen = saved
    inverse = inverse_lists(chosen, tables.units, tables.blocks.shape[0])
    # Longest lists first: one block that all read should not be what everything else waits for.
    order = inverse.offsets.diff().argsort(descending=True, stable=True).to(torch.int32)
    head_dim, kv_heads = key.shape[3], key.shape[1]
    groups = query.shape[1] // kv_heads
    launch = launch_for("backward_retrieved", head_dim, query.dtype, query.device)
    rows, heads_per_tile = tile_rows(launch, tables.reader_size, groups)
    block_n = min(launch.block_n, block_size)
    _add_retrieved_gradients[(order.shape[0], block_size // block_n)](
        grad,
        query,
        key,
        value,
        *statistics,
        key_grad,
        value_grad,
        *inverse,
        order,
        tables.blocks,
        tables.readers,
        scale,
        scale * log2(e),
        tables.blocks.shape[0],
        chosen.shape[2],
        groups,
        grad.stride(),
        query.stride(),
        key.stride(),
        value.stride(),
        key_grad.stride(),
        value_grad.stride(),
        *query.shape[1:3],
        ROWS=rows,
        HEADS=heads_per_tile,
        BLOCK_N=block_n,
        **launch.settings(head_dim),
    )


@triton.jit(do_not_specialize=["block_count", "top_k", "groups", "heads", "length"])
def _add_retrieved_gradients(
    grad,
    query,
    key,
    value,
    log_totals,
    deltas,
    key_grad,
    value_grad,
    offsets,
    entries,
    order,
    block_table,
    reader_table,
    scale,
    factor,
    block_count,
    top_k,
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
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    owned = tl.load(order + tl.program_id(0))
    first_entry = tl.load(offsets + owned)
    last_entry = tl.load(offsets + owned + 1)
    if first_entry == last_entry:
        return
    kv_head = (owned // block_count).to(tl.int64)
    block = owned % block_count

    # A block that is read is whole, and its readers belong to its sequence, in its row.
    row = tl.load(block_table + block * BLOCK_WIDTH + ROW).to(tl.int64)
    block_start = tl.load(block_table + block * BLOCK_WIDTH + FIRST)
    source = block_start + tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    at = source.to(tl.int64)
    dim = tl.arange(0, BLOCK_D)
    keys = key + vector_at(key_strides, row, kv_head, at)[:, None] + dim[None, :]
    values = value + vector_at(value_strides, row, kv_head, at)[:, None] + dim[None, :]
    k = load_tile(keys, None, False, HEAD_DIM, BLOCK_D)
    v = load_tile(values, None, False, HEAD_DIM, BLOCK_D)
    # Transposed: a matrix unit wants 64 rows or more, and a block may have fewer keys.
    dk = tl.zeros([BLOCK_D, BLOCK_N], tl.float32)
    dv = tl.zeros([BLOCK_D, BLOCK_N], tl.float32)

    place = tl.arange(0, HEADS * ROWS)
    head_tiles = groups // HEADS
    for entry in range(first_entry, last_entry):
        reader = tl.load(entries + entry) // top_k
        reader_start = tl.load(reader_table + reader * READER_WIDTH + FIRST)
        tokens = tl.load(reader_table + reader * READER_WIDTH + TOKENS)
        for tile in range(tl.cdiv(tokens, ROWS) * head_tiles):
            head = kv_head * groups + tile % head_tiles * HEADS + place // ROWS
            offset = tile // head_tiles * ROWS + place % ROWS
            asks = offset < tokens
            position = (reader_start + offset).to(tl.int64)
            asking = query + vector_at(query_strides, row, head, position)[:, None] + dim[None, :]
            q = load_tile(asking, asks, True, HEAD_DIM, BLOCK_D)
            given = grad + vector_at(grad_strides, row, head, position)[:, None] + dim[None, :]
            do = load_tile(given, asks, True, HEAD_DIM, BLOCK_D)
            kept = (row * heads + head) * length + position
            # Queries that do not read this block get no weights.
            log_total = tl.load(log_totals + kept, asks, other=float("inf"))
            delta = tl.load(deltas + kept, asks, other=0.0)
            products = tl.dot(q, tl.trans(k), input_precision="ieee")
            weights, ds = weights_and_gradients(products, (do,), (v,), log_total[:, None], delta[:, None], factor)
            dv = tl.dot(tl.trans(do), weights.to(do.dtype), dv, input_precision="ieee")
            dk = tl.dot(tl.trans(q), ds.to(q.dtype), dk, input_precision="ieee")

    # The share of the own chunk was rounded already, which costs half a unit in the last place at most; keeping it
    # exact would take float32 copies of both gradients.
    inside = (dim < HEAD_DIM)[:, None] & (at >= 0)[None, :]
    key_grad += vector_at(key_grad_strides, row, kv_head, at)[None, :] + dim[:, None]
    value_grad += vector_at(value_grad_strides, row, kv_head, at)[None, :] + dim[:, None]
    dk = tl.load(key_grad, inside, other=0.0).to(tl.float32) + dk * scale
    dv = tl.load(value_grad, inside, other=0.0).to(tl.float32) + dv
    tl.debug_barrier()  # threads may hold copies of what they read: none is to read what another has already written
    tl.store(key_grad, dk.to(key_grad.dtype.element_ty), inside)
    tl.store(value_grad, dv.to(value_grad.dtype.element_ty), inside)
