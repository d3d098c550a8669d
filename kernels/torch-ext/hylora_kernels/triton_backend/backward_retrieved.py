# SPDX-License-Identifier: Apache-2.0
"""Gradients of keys and values from the readers of later chunks that retrieved their block.

One program owns a block (or, of a large one, some of its keys), walks the list of its readers and adds the sum to what
its own chunk gave: no atomics, always the same order, the same bits. A long list, as of a block that all read, is cut
into runs for a program each; what they give is kept in float32 and added up by `sum_runs` in their order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..saved import Saved
from ..scoring import Scoring
from .backward_query import weights_and_gradients
from .columns import FIRST, READER_WIDTH, TOKENS
from .inverse import cut_into_runs, inverse_lists, longest_first
from .launch import launch_for
from .pairs import block_of_row, run_of_entries
from .pieces import add_pieces, dot_pieces, load_pieces, piece_columns, store_pieces
from .scores import score_factors, softcapped
from .sum_runs import add_runs
from .tables import SpanTables
from .tiles import tile_rows, vector_at

# Queries of a run for each token that a query retrieves, unless one reader has more: runs grow with what is to do,
# and room for their sums never takes more than a quarter of that for the queries. 8 blocks of 32 make it 8192 queries,
# at 64k tokens about a quarter of what each program has to do if all are to end together. Writing and reading the
# float32 sums is then 1/64 of what a run reads.
_RUN = 32


def add_retrieved_gradients(
    grad: Tensor,
    saved: Saved,
    statistics: Tensor,
    key_grad: Tensor,
    value_grad: Tensor,
    tables: SpanTables,
    scoring: Scoring,
    block_size: int,
):
    """Add to the gradients of keys and values what the readers of their blocks contribute.

    Arguments are those of `own_gradients`; readers are units.
    """
    query, key, value, _, _, chosen = saved
    head_dim, kv_heads = key.shape[3], key.shape[1]
    groups = query.shape[1] // kv_heads
    inverse = inverse_lists(chosen, tables.units, tables.blocks.shape[0])
    # What takes longest starts first, rather than being waited for at the end.
    order = longest_first(inverse)
    size = max(1, _RUN * chosen.shape[2] * block_size // (tables.reader_size * groups))
    runs = cut_into_runs(inverse, size, order)
    # Lists of several runs come first. Of n entries, more than `size`, there are at most 2 n / (size + 1) runs. A unit
    # names a block once, so with few units there are none.
    most = 2 * chosen.numel() // (size + 1) if tables.units.shape[0] > size else 0
    several = most // 2
    of_runs = torch.empty(most, 2, block_size, head_dim, dtype=torch.float32, device=key.device)
    launch = launch_for("backward_retrieved", head_dim, query.dtype, query.device)
    rows, heads_per_tile = tile_rows(launch, tables.reader_size, groups)
    block_n = min(launch.block_n, block_size)
    _add_retrieved_gradients[(runs.rows.shape[0], block_size // block_n)](
        grad,
        query,
        key,
        value,
        *statistics,
        key_grad,
        value_grad,
        of_runs,
        *runs,
        *inverse,
        order,
        tables.blocks,
        tables.readers,
        scoring.scale,
        *score_factors(scoring),
        kv_heads,
        tables.blocks.shape[0],
        chosen.shape[2],
        groups,
        triton.cdiv(tables.reader_size, rows),
        grad.stride(),
        query.stride(),
        key.stride(),
        value.stride(),
        key_grad.stride(),
        value_grad.stride(),
        *query.shape[1:3],
        SIZE=size,
        ROWS=rows,
        HEADS=heads_per_tile,
        BLOCK_N=block_n,
        **launch.piece_settings(head_dim),
    )
    if several:
        for which, total in enumerate((key_grad, value_grad)):
            add_runs(of_runs[:, which], runs, total, tables, order[:several])


@triton.jit(do_not_specialize=["kv_heads", "block_count", "top_k", "groups", "reader_tiles", "heads", "length"])
def _add_retrieved_gradients(
    grad,
    query,
    key,
    value,
    log_totals,
    deltas,
    key_grad,
    value_grad,
    of_runs,
    run_rows,
    first_runs,
    offsets,
    entries,
    order,
    block_table,
    reader_table,
    scale,
    factor,
    cap_factor,
    kv_heads,
    block_count,
    top_k,
    groups,
    reader_tiles,
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
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    listed, first_entry, end = run_of_entries(run_rows, first_runs, offsets, kv_heads * block_count, SIZE, order)
    if first_entry >= end:
        return

    # A block that is read is whole, and its readers belong to its sequence, in its row.
    kv_head, row, block_start = block_of_row(block_table, listed, block_count)
    within = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    at = (block_start + within).to(tl.int64)
    columns = piece_columns(WIDTHS)
    keys = key + vector_at(key_strides, row, kv_head, at)[:, None]
    values = value + vector_at(value_strides, row, kv_head, at)[:, None]
    k = load_pieces(keys, columns, None, False, HEAD_DIM, WIDTHS)
    v = load_pieces(values, columns, None, False, HEAD_DIM, WIDTHS)
    # Transposed: a matrix unit wants 64 rows or more, and a block may have fewer keys.
    dk = ()
    dv = ()
    for i in tl.static_range(len(WIDTHS)):
        dk = dk + (tl.zeros([tl.constexpr(WIDTHS[i]), BLOCK_N], tl.float32),)
        dv = dv + (tl.zeros([tl.constexpr(WIDTHS[i]), BLOCK_N], tl.float32),)

    place = tl.arange(0, HEADS * ROWS)
    head_tiles = groups // HEADS
    tiles = reader_tiles * head_tiles
    # All tiles of all readers in one loop, so that its pipeline fills up once. Of the units of a sequence only the
    # last may be short, and it comes last in a list.
    _, last_tokens = _reader(reader_table, entries, end - 1, top_k)
    steps = (end - 1 - first_entry) * tiles + tl.cdiv(last_tokens, ROWS) * head_tiles
    reader_start, tokens = _reader(reader_table, entries, first_entry, top_k)
    for step in range(steps):
        head = kv_head * groups + step % head_tiles * HEADS + place // ROWS
        offset = step % tiles // head_tiles * ROWS + place % ROWS
        asks = offset < tokens
        position = (reader_start + offset).to(tl.int64)
        asking = query + vector_at(query_strides, row, head, position)[:, None]
        q = load_pieces(asking, columns, asks, True, HEAD_DIM, WIDTHS)
        given = grad + vector_at(grad_strides, row, head, position)[:, None]
        do = load_pieces(given, columns, asks, True, HEAD_DIM, WIDTHS)
        kept = (row * heads + head) * length + position
        # Queries that do not read this block get no weights.
        log_total = tl.load(log_totals + kept, asks, other=float("inf"))
        delta = tl.load(deltas + kept, asks, other=0.0)
        products = softcapped(dot_pieces(q, k), cap_factor)
        weights, ds = weights_and_gradients(products, do, v, log_total[:, None], delta[:, None], factor, cap_factor)
        dv = _add_transposed(do, weights.to(do[0].dtype), dv)
        dk = _add_transposed(q, ds.to(q[0].dtype), dk)
        # Looked up a step ahead: loads that wait for other loads of the same step would take stages of the pipeline.
        following = tl.minimum(first_entry + (step + 1) // tiles, end - 1)
        reader_start, tokens = _reader(reader_table, entries, following, top_k)

    dk = [tl.trans(x) * scale for x in dk]
    dv = [tl.trans(x) for x in dv]
    inside = within >= 0
    if tl.load(offsets + listed + 1) - tl.load(offsets + listed) > SIZE:
        block_size = tl.num_programs(1) * BLOCK_N
        share = of_runs + (tl.program_id(0).to(tl.int64) * 2 * block_size + within)[:, None] * HEAD_DIM
        store_pieces(share, columns, dk, inside, HEAD_DIM)
        store_pieces(share + block_size * HEAD_DIM, columns, dv, inside, HEAD_DIM)
    else:
        # The share of the own chunk was rounded already, which costs half a unit in the last place at most; keeping it
        # exact would take float32 copies of both gradients.
        dkeys = key_grad + vector_at(key_grad_strides, row, kv_head, at)[:, None]
        dvalues = value_grad + vector_at(value_grad_strides, row, kv_head, at)[:, None]
        own_dk = load_pieces(dkeys, columns, None, False, HEAD_DIM, WIDTHS)
        own_dv = load_pieces(dvalues, columns, None, False, HEAD_DIM, WIDTHS)
        # Threads may hold copies of what they read: none is to read what another has already written.
        tl.debug_barrier()
        store_pieces(dkeys, columns, add_pieces(dk, own_dk), inside, HEAD_DIM)
        store_pieces(dvalues, columns, add_pieces(dv, own_dv), inside, HEAD_DIM)


@triton.jit
def _reader(table, entries, entry, top_k):
    """First position and tokens of the reader that an entry names."""
    reader = table + tl.load(entries + entry) // top_k * READER_WIDTH
    return tl.load(reader + FIRST), tl.load(reader + TOKENS)


@triton.jit
def _add_transposed(pieces, weights, sums):
    """The sums `[width, columns]`, with each piece's products with the columns of the weights added."""
    added = ()
    for i in tl.static_range(len(pieces)):
        added = added + (tl.dot(tl.trans(pieces[i]), weights, sums[i], input_precision="ieee"),)
    return added
