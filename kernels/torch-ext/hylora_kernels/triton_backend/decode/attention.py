# SPDX-License-Identifier: Apache-2.0
"""Attention of one token to its retrieved blocks and its own chunk so far, which many programs share out.

Each program computes one tile of keys for all query heads that share them; a second kernel puts the tiles' softmaxes
together. Tiles are numbered: first those of the retrieved blocks, then those of the own chunk.
"""

from __future__ import annotations

from typing import Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...options import SpanOptions
from ...scoring import Scoring
from ..launch import launch_for, padded
from ..retrieval import MISSING
from ..scores import score_factors, softcapped
from ..tiles import load_tile


def attend(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    best: Optional[Tuple[Tensor, int]],
    lengths: Tensor,
    options: SpanOptions,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor]:
    """Attention of the token at each row's position `lengths`, which the cache already holds.

    Args:
        query: `[B, Hq, 1, D]`, the last dimension contiguous.
        key_cache: `[B, Hkv, capacity, D]`, contiguous.
        value_cache: likewise.
        best: what `rank_blocks` found; None if nothing is retrieved.
        lengths: `[B]` int32, tokens before the new one.
        options: chunks, blocks and how many of them are retrieved.
        scoring: scale and softcap of the scores.

    Returns:
        The output `[B, Hq, 1, D]`, and the natural logarithm of the softmax denominator, `[B, Hq, 1]` float32.
    """
    batch, heads, _, head_dim = query.shape
    kv_heads, capacity = key_cache.shape[1:3]
    launch = launch_for("decode_attend", head_dim, query.dtype, query.device)
    candidates, share = best if best is not None else (None, 1)
    blocks = 0 if best is None else min(options.top_k, capacity // options.block_size)
    retrieved = triton.cdiv(blocks * options.block_size, launch.block_n)
    tiles = retrieved + triton.cdiv(min(options.chunk_size, capacity), launch.block_n)
    partial = torch.empty(batch, heads, tiles, head_dim, dtype=torch.float32, device=query.device)
    partial_lse = torch.empty(batch, heads, tiles, dtype=torch.float32, device=query.device)
    sizes = {
        "TOP_K": options.top_k,
        "RETRIEVED": retrieved,
        "CHUNK_SIZE": options.chunk_size,
        "BLOCK_SIZE": options.block_size,
        "BLOCK_N": launch.block_n,
    }
    splits, kept = candidates.shape[2:] if best is not None else (1, 2)
    _attend_tile[(tiles, kv_heads, batch)](
        query,
        key_cache,
        value_cache,
        candidates,
        partial,
        partial_lse,
        lengths,
        *score_factors(scoring),
        capacity,
        share,
        splits,
        *query.stride()[:2],
        GROUPS=heads // kv_heads,
        ROWS=padded(heads // kv_heads),
        SPLITS=triton.next_power_of_2(splits),
        KEPT=kept,
        **launch.settings(head_dim),
        **sizes,
    )
    launch = launch_for("decode_combine", head_dim, query.dtype, query.device)
    output = query.new_empty(batch, heads, 1, head_dim)
    lse = torch.empty(batch, heads, 1, dtype=torch.float32, device=query.device)
    _combine_tiles[(heads, batch)](
        partial,
        partial_lse,
        output,
        lse,
        lengths,
        capacity,
        tiles,
        TILES=launch.block_m,
        **launch.settings(head_dim),
        **sizes,
    )
    return output, lse


@triton.jit(do_not_specialize=["capacity", "share", "splits"])
def _attend_tile(
    query,
    key_cache,
    value_cache,
    best,
    partial,
    partial_lse,
    lengths,
    factor,
    cap_factor,
    capacity,
    share,
    splits,
    query_b,
    query_h,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
    KEPT: tl.constexpr,
    TOP_K: tl.constexpr,
    RETRIEVED: tl.constexpr,
    CHUNK_SIZE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    problem = row * tl.num_programs(1) + kv_head
    position = tl.load(lengths + row)
    chunk_start = position // CHUNK_SIZE * CHUNK_SIZE
    chosen = tl.minimum(TOP_K, chunk_start // BLOCK_SIZE)
    is_own = tile >= RETRIEVED
    token = tl.where(is_own, tile - RETRIEVED, tile) * BLOCK_N + tl.arange(0, BLOCK_N)
    visible = token < tl.where(is_own, position + 1 - chunk_start, chosen * BLOCK_SIZE)
    if (position >= capacity) | (tl.max(visible.to(tl.int32), 0) == 0):
        return

    source = chunk_start + token
    if RETRIEVED > 0:  # noqa: SIM102 (without retrieval this is not compiled)
        if tile < RETRIEVED:
            block = _ranked(best + problem * splits * KEPT, chunk_start // BLOCK_SIZE, share, SPLITS, KEPT)
            rank = tl.arange(0, KEPT)
            named = tl.where((token // BLOCK_SIZE)[:, None] == rank[None, :], block[None, :], 0)
            source = tl.sum(named, 1) * BLOCK_SIZE + token % BLOCK_SIZE

    member = tl.arange(0, ROWS)
    dim = tl.arange(0, BLOCK_D)
    head = kv_head * GROUPS + member
    real = member < GROUPS
    q = load_tile(
        query + row * query_b + head.to(tl.int64)[:, None] * query_h + dim[None, :], real, True, HEAD_DIM, BLOCK_D
    )
    at = (problem * capacity + source)[:, None] * HEAD_DIM + dim[None, :]
    k = load_tile(key_cache + at, visible, True, HEAD_DIM, BLOCK_D)
    v = load_tile(value_cache + at, visible, True, HEAD_DIM, BLOCK_D)
    products = softcapped(tl.dot(q, tl.trans(k), input_precision="tf32x3"), cap_factor) * factor
    products = tl.where(visible[None, :], products, float("-inf"))
    pivot = tl.max(products, 1)
    weights = tl.exp2(products - pivot[:, None])
    total = tl.sum(weights, 1)
    mixed = tl.dot(weights.to(v.dtype), v, input_precision="tf32x3") / total[:, None]
    slot = (row * tl.num_programs(1) * GROUPS + head) * tl.num_programs(0) + tile
    tl.store(partial_lse + slot, pivot + tl.log2(total), real)
    inside = real[:, None] & (dim < HEAD_DIM)[None, :]
    tl.store(partial + slot[:, None] * HEAD_DIM + dim[None, :], mixed, inside)


@triton.jit
def _ranked(best, count, share, SPLITS: tl.constexpr, KEPT: tl.constexpr):
    """The best of `count` candidates, best first; only programs that had candidates wrote what they found."""
    entry = tl.arange(0, SPLITS * KEPT)
    found = tl.load(best + entry, entry // KEPT * share < count, other=MISSING)
    return (0xFFFFFFFF - (tl.topk(found, KEPT) & 0xFFFFFFFF)).to(tl.int32)


@triton.jit(do_not_specialize=["capacity", "tiles"])
def _combine_tiles(
    partial,
    partial_lse,
    output,
    lse,
    lengths,
    capacity,
    tiles,
    TILES: tl.constexpr,
    TOP_K: tl.constexpr,
    RETRIEVED: tl.constexpr,
    CHUNK_SIZE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    problem = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    position = tl.load(lengths + tl.program_id(1))
    place = position % CHUNK_SIZE
    read = tl.minimum(TOP_K, (position - place) // BLOCK_SIZE) * BLOCK_SIZE  # retrieved tokens
    end = tl.where(position < capacity, RETRIEVED + place // BLOCK_N + 1, 0)
    dim = tl.arange(0, BLOCK_D)
    inside = (dim < HEAD_DIM)[None, :]
    pivot = -3.0e38  # finite, for a first step in which nothing was retrieved
    total = 0.0
    mixed = tl.zeros([BLOCK_D], tl.float32)
    for first in range(0, end, TILES):
        tile = first + tl.arange(0, TILES)
        written = tl.where(tile < RETRIEVED, tile * BLOCK_N < read, tile < end)
        scores = tl.load(partial_lse + problem * tiles + tile, written, other=float("-inf"))
        share = tl.load(
            partial + (problem * tiles + tile)[:, None] * HEAD_DIM + dim[None, :], written[:, None] & inside, other=0.0
        )
        higher = tl.maximum(pivot, tl.max(scores, 0))
        weights = tl.exp2(scores - higher)
        shrink = tl.exp2(pivot - higher)
        total = total * shrink + tl.sum(weights, 0)
        mixed = mixed * shrink + tl.sum(weights[:, None] * share, 0)
        pivot = higher
    # Without room for the token there is nothing to divide: NaN, and a log-sum-exp of -inf.
    tl.store(output + problem * HEAD_DIM + dim, (mixed / total).to(output.dtype.element_ty), dim < HEAD_DIM)
    tl.store(lse + problem, (pivot + tl.log2(total)) * 0.6931471805599453)
