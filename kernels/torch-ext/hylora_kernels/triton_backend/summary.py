# SPDX-License-Identifier: Apache-2.0
"""One or two vectors for each memory block (6.7 and its variants), and the sum of its queries, in one pass.

Since the mean over rows commutes with the product by V, a summary is one weighted sum of the rows of V. One program
takes a tile of one or several whole blocks of one KV head: the products between different blocks of a tile are wasted,
which costs nothing where reading the tile takes longer than computing on it.
"""

from __future__ import annotations

from math import e, log2
from typing import Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..cached import cached_tables
from ..inputs import landmark_query, summary_dtype
from ..options import SpanOptions, summary_width
from .columns import BLOCK_WIDTH, FIRST, ROW, TOKENS
from .launch import launch_for
from .tables import SpanTables
from .tiles import load_tile, vector_at


def summarize_blocks(
    query: Tensor, key: Tensor, value: Tensor, tables: SpanTables, options: SpanOptions, scale: float
) -> Tuple[Tensor, Optional[Tensor]]:
    """Summaries of all blocks of a layout (chapter 6, equation 6.7 and its variants), of width W: D or, of two, 2 D.

    Args:
        query: `[B, Hq, L, D]`; of all three, the last dimension is contiguous and the other strides are free.
        key: `[B, Hkv, L, D]`.
        value: `[B, Hkv, L, D]`.
        tables: those of the layout and the options.
        options: which summary, and what is chosen for whom.
        scale: factor of the scores inside a summary.

    Returns:
        The summaries, `[Hkv, blocks, W]` float32, or bfloat16 if the options ask for it; those of incomplete blocks,
        which are no candidates, have no meaning. And where units are made of whole blocks, the sum of each block's
        queries, or of their features, over its tokens and the heads that share a KV head, `[Hkv, blocks, W]` float32;
        otherwise None.
    """
    kv_heads, head_dim = key.shape[1], key.shape[3]
    blocks, size = tables.blocks.shape[0], options.block_size
    width = summary_width(options, head_dim)
    summaries = torch.empty(kv_heads, blocks, width, dtype=summary_dtype(options, key.dtype), device=key.device)
    query_sums = None if options.unit_size % size else torch.empty_like(summaries, dtype=torch.float32)
    if blocks == 0:
        return summaries, query_sums

    launch = launch_for("summary", head_dim, query.dtype, query.device)
    keys = max(launch.block_m, size)
    # A block as large as the tile may meet its queries in parts.
    rows = min(launch.block_n, size) if keys == size else keys
    _summarize[(triton.cdiv(blocks, keys // size) * kv_heads,)](
        query,
        key,
        value,
        landmark_on_device(head_dim, options.seed, query.device) if options.summary == "landmark" else None,
        summaries,
        query_sums,
        tables.blocks,
        scale,
        scale * log2(e),
        blocks,
        kv_heads,
        query.shape[1] // kv_heads,
        query.stride(),
        key.stride(),
        value.stride(),
        SUMMARY=options.summary,
        WIDTH=width,
        BLOCK_SIZE=size,
        KEYS=keys,
        ROWS=rows,
        **launch.settings(head_dim),
    )
    return summaries, query_sums


@cached_tables
def landmark_on_device(head_dim: int, seed: int, device: torch.device) -> Tensor:
    """The landmark's query in float32 on the device; kept, for copies to a device wait for it."""
    return landmark_query(head_dim, seed).float().to(device)


@triton.jit(do_not_specialize=["count", "kv_heads", "groups"])
def _summarize(
    query,
    key,
    value,
    landmark,
    summaries,
    query_sums,
    table,
    scale,
    factor,
    count,
    kv_heads,
    groups,
    query_strides,
    key_strides,
    value_strides,
    SUMMARY: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    KEYS: tl.constexpr,
    ROWS: tl.constexpr,
):
    BLOCKS: tl.constexpr = KEYS // BLOCK_SIZE
    # In most models' memory the heads of a token lie side by side: their programs run together.
    kv_head = (tl.program_id(0) % kv_heads).to(tl.int64)
    first_block = tl.program_id(0) // kv_heads * BLOCKS
    place = tl.arange(0, KEYS)
    dim = tl.arange(0, BLOCK_D)
    row, position, real = _tokens(table, first_block, place, count, BLOCK_SIZE)

    keys = key + vector_at(key_strides, row, kv_head, position)[:, None] + dim[None, :]
    k = load_tile(keys, real, True, HEAD_DIM, BLOCK_D)
    weights = tl.zeros([KEYS], tl.float32)
    if SUMMARY == "landmark":
        asked = tl.load(landmark + dim, dim < HEAD_DIM, other=0.0)
        products = tl.sum(k.to(tl.float32) * asked[None, :], 1)
        weights = tl.reshape(_softmax(tl.reshape(products * factor, [BLOCKS, BLOCK_SIZE])), [KEYS])

    if SUMMARY == "attention" or query_sums is not None:
        sums = tl.zeros([BLOCKS, BLOCK_D], tl.float32)
        if WIDTH > HEAD_DIM:
            spreads = tl.zeros([BLOCKS, BLOCK_D], tl.float32)
        for start in range(0, KEYS, ROWS):
            asking = start + tl.arange(0, ROWS)
            query_row, query_position, asks = _tokens(table, first_block, asking, count, BLOCK_SIZE)
            at = vector_at(query_strides, query_row, kv_head * groups, query_position)
            queries = query + at[:, None] + dim[None, :]
            for _ in range(groups):
                q = load_tile(queries, asks, True, HEAD_DIM, BLOCK_D)
                queries += query_strides[1]
                if query_sums is not None:
                    x = tl.reshape(q.to(tl.float32), [BLOCKS, ROWS // BLOCKS, BLOCK_D])
                    sums += tl.sum(x, 1)
                    if WIDTH > HEAD_DIM:
                        spreads += tl.sum(spread_feature(x, scale, SUMMARY), 1)
                if SUMMARY == "attention":
                    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * factor
                    if BLOCKS == 1:
                        shares = _softmax(scores)
                    else:
                        # Masked before and after: what is not a number stays within its block.
                        same = (asking // BLOCK_SIZE)[:, None] == (place // BLOCK_SIZE)[None, :]
                        shares = tl.where(same, _softmax(tl.where(same, scores, float("-inf"))), 0.0)
                    weights += tl.sum(shares, 0)
    if SUMMARY == "attention":
        weights = weights / (BLOCK_SIZE * groups)

    block = first_block + tl.arange(0, BLOCKS)
    at = (kv_head * count + block)[:, None] * WIDTH + dim[None, :]
    inside = (block < count)[:, None] & (dim < HEAD_DIM)[None, :]
    if SUMMARY == "attention" or SUMMARY == "landmark":
        values = value + vector_at(value_strides, row, kv_head, position)[:, None] + dim[None, :]
        v = load_tile(values, real, True, HEAD_DIM, BLOCK_D).to(tl.float32)
        first = tl.sum(tl.reshape(v * weights[:, None], [BLOCKS, BLOCK_SIZE, BLOCK_D]), 1)
    else:
        first, second = key_vectors(tl.reshape(k.to(tl.float32), [BLOCKS, BLOCK_SIZE, BLOCK_D]), SUMMARY, BLOCK_SIZE)
        if WIDTH > HEAD_DIM:
            tl.store(summaries + at + HEAD_DIM, second, inside)
    tl.store(summaries + at, first, inside)  # which rounds, as every store does
    if query_sums is not None:
        tl.store(query_sums + at, sums, inside)
        if WIDTH > HEAD_DIM:
            tl.store(query_sums + at + HEAD_DIM, spreads, inside)


@triton.jit
def key_vectors(keys, SUMMARY: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """Where the keys of blocks `[blocks, BLOCK_SIZE, D]` lie and, where SUMMARY asks for it, how far they spread."""
    if SUMMARY == "min_max":
        low, high = tl.min(keys, 1), tl.max(keys, 1)
        centre, spread = (low + high) / 2, (high - low) / 2
    else:
        centre = tl.sum(keys, 1) / BLOCK_SIZE
        spread = centre
        if SUMMARY != "mean_key":
            away = keys - centre[:, None, :]
            variance = tl.sum(away * away, 1) / BLOCK_SIZE
            spread = tl.sqrt(variance) if SUMMARY == "mean_std" else variance / 2
    return centre, spread


@triton.jit
def spread_feature(query, scale, SUMMARY: tl.constexpr):
    """What of a float32 query is multiplied with the spread of keys."""
    return scale * query * query if SUMMARY == "gaussian" else tl.abs(query)


@triton.jit
def _tokens(table, first_block, place, count, BLOCK_SIZE: tl.constexpr):
    """Row and position of tokens counted from the start of a block, and whether there are such tokens."""
    block = first_block + place // BLOCK_SIZE
    exists = block < count
    row = tl.load(table + block * BLOCK_WIDTH + ROW, exists, other=0).to(tl.int64)
    start = tl.load(table + block * BLOCK_WIDTH + FIRST, exists, other=0)
    real = place % BLOCK_SIZE < tl.load(table + block * BLOCK_WIDTH + TOKENS, exists, other=0)
    return row, (start + place % BLOCK_SIZE).to(tl.int64), real


@triton.jit
def _softmax(scores):
    """Over the last dimension, of scores in base 2."""
    weights = tl.exp2(scores - tl.max(scores, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]
