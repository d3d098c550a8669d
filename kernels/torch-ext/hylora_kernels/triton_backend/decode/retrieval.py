# SPDX-License-Identifier: Apache-2.0
"""The candidates with the highest scores, found by several programs that each look through some of the summaries."""

from __future__ import annotations

from typing import Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...options import SpanOptions
from ..launch import launch_for, padded
from ..retrieval import MISSING, sort_keys

# Whoever reads the blocks first ranks what this many programs found.
_SPLITS = 16
# A summary may be two vectors long; so many of its numbers are in a tile.
_COLUMNS = 256


def rank_blocks(pooled: Tensor, summaries: Tensor, lengths: Tensor, options: SpanOptions) -> Tuple[Tensor, int]:
    """The best candidates of each program.

    Args:
        pooled: `[B, Hkv, W]` float32, the features of the queries that choose.
        summaries: `[B, Hkv, blocks, W]` float32 or bfloat16.
        lengths: `[B]` int32, tokens before the new one.
        options: chunks, blocks and how many to choose.

    Returns:
        `[B, Hkv, programs, kept]` int64: score and index, packed so that larger is better, best first. `kept` is
        `top_k` rounded up to a power of two. Programs that have no candidate write nothing. And how many blocks each
        program looks through.
    """
    batch, kv_heads, blocks, width = summaries.shape
    columns = min(padded(width), _COLUMNS)
    launch = launch_for("decode_rank", columns, pooled.dtype, pooled.device)
    kept = triton.next_power_of_2(max(2, options.top_k))
    step = max(launch.block_n, kept)
    share = triton.cdiv(max(launch.block_m, triton.cdiv(blocks, _SPLITS)), step) * step
    splits = triton.cdiv(blocks, share)
    best = torch.empty(batch, kv_heads, splits, kept, dtype=torch.int64, device=summaries.device)
    _rank_blocks[(splits, kv_heads, batch)](
        pooled,
        summaries,
        best,
        lengths,
        blocks,
        share,
        pooled.stride(0),
        CHUNK_SIZE=options.chunk_size,
        BLOCK_SIZE=options.block_size,
        BLOCK_N=step,
        KEPT=kept,
        WIDTH=width,
        COLUMNS=columns,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )
    return best, share


@triton.jit(do_not_specialize=["blocks", "share"])
def _rank_blocks(
    pooled,
    summaries,
    best,
    lengths,
    blocks,
    share,
    pooled_b,
    CHUNK_SIZE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    KEPT: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    split = tl.program_id(0)
    row = tl.program_id(2).to(tl.int64)
    problem = row * tl.num_programs(1) + tl.program_id(1)
    # Replays may go on beyond the capacity.
    count = tl.minimum(tl.load(lengths + row) // CHUNK_SIZE * CHUNK_SIZE // BLOCK_SIZE, blocks)
    last = tl.minimum((split + 1) * share, count)
    if split * share >= last:
        return

    pooled += row * pooled_b + tl.program_id(1) * WIDTH
    summaries += problem * blocks * WIDTH
    kept = tl.full([KEPT], MISSING, tl.int64)
    for first in range(split * share, last, BLOCK_N):
        block = first + tl.arange(0, BLOCK_N)
        real = block < last
        scores = tl.zeros([BLOCK_N], tl.float32)
        for begin in tl.static_range(0, WIDTH, COLUMNS):
            at = begin + tl.arange(0, COLUMNS)
            asked = tl.load(pooled + at, at < WIDTH, other=0.0)
            pointers = summaries + block.to(tl.int64)[:, None] * WIDTH + at[None, :]
            summary = tl.load(pointers, real[:, None] & (at < WIDTH)[None, :], other=0.0)
            scores += tl.sum(summary.to(tl.float32) * asked[None, :], 1)
        found = tl.where(real, sort_keys(scores, block), MISSING)
        kept = tl.topk(tl.join(kept, tl.topk(found, KEPT)).reshape([2 * KEPT]), KEPT)
    tl.store(best + (problem * tl.num_programs(0) + split) * KEPT + tl.arange(0, KEPT), kept)
