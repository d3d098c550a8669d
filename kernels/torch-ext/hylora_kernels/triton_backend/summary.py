# SPDX-License-Identifier: Apache-2.0
"""One vector for each memory block, and the sum of its queries, in one pass over queries, keys and values."""

from __future__ import annotations

from math import e, log2
from typing import Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..options import SpanOptions, landmark_query
from .launch import launch_for
from .tables import SpanTables
from .tiles import load_tile


def summarize_blocks(
    query: Tensor, key: Tensor, value: Tensor, tables: SpanTables, options: SpanOptions, scale: float
) -> Tuple[Tensor, Optional[Tensor]]:
    """Summaries of all blocks (chapter 6, equation 6.7 and its variants).

    Args:
        query: `[B, Hq, L, D]`; of all three, the last dimension is contiguous and the other strides are free.
        key: `[B, Hkv, L, D]`.
        value: `[B, Hkv, L, D]`.
        tables: those of the layout and the options.
        options: which summary.
        scale: factor of the scores, positive.

    Returns:
        The summaries `[Hkv, blocks, D]` float32, those of incomplete blocks without meaning; and where the summary
        reads the queries anyway ("attention"), each block's queries summed over tokens and the heads of the group,
        `[Hkv, blocks, D]` float32, else None.
    """
    kv_heads, head_dim = key.shape[1], key.shape[3]
    count = tables.blocks.shape[0]
    summaries = torch.empty(kv_heads, count, head_dim, dtype=torch.float32, device=key.device)
    attends = options.summary == "attention"
    sums = torch.empty_like(summaries) if attends else None
    if count == 0:
        return summaries, sums
    landmark = None
    if options.summary == "landmark":
        landmark = landmark_query(head_dim, options.seed).to(summaries)
    launch = launch_for("summary", head_dim, query.dtype, query.device)
    _summarize[(count, kv_heads)](
        query,
        key,
        value,
        landmark,
        summaries,
        sums,
        tables.blocks,
        scale * log2(e),
        count,
        query.shape[1] // kv_heads,
        *query.stride()[:3],
        *key.stride()[:3],
        *value.stride()[:3],
        SUMMARY=options.summary,
        BLOCK_SIZE=options.block_size,
        HEAD_DIM=head_dim,
        BLOCK_D=triton.next_power_of_2(max(16, head_dim)),
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )
    return summaries, sums


@triton.jit(do_not_specialize=["count", "groups"])
def _summarize(
    query,
    key,
    value,
    landmark,
    summaries,
    sums,
    table,
    factor,
    count,
    groups,
    query_b,
    query_h,
    query_l,
    key_b,
    key_h,
    key_l,
    value_b,
    value_h,
    value_l,
    SUMMARY: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    block = tl.program_id(0)
    kv_head = tl.program_id(1).to(tl.int64)
    row = tl.load(table + block * 3).to(tl.int64)
    token = tl.arange(0, BLOCK_SIZE)
    at = (tl.load(table + block * 3 + 1) + token).to(tl.int64)[:, None]
    real = token < tl.load(table + block * 3 + 2)
    dim = tl.arange(0, BLOCK_D)
    place = (kv_head * count + block) * HEAD_DIM + dim

    k = load_tile(key + row * key_b + kv_head * key_h + at * key_l + dim[None, :], real, True, HEAD_DIM, BLOCK_D)
    if SUMMARY == "mean_key":
        summary = tl.sum(k.to(tl.float32), 0) / BLOCK_SIZE
    else:
        v = load_tile(
            value + row * value_b + kv_head * value_h + at * value_l + dim[None, :], real, True, HEAD_DIM, BLOCK_D
        )
        if SUMMARY == "landmark":
            q = tl.load(landmark + dim, dim < HEAD_DIM, other=0.0)
            scores = tl.where(real, tl.sum(k.to(tl.float32) * q[None, :], 1) * factor, float("-inf"))
            weights = tl.exp2(scores - tl.max(scores, 0))
            weights = weights / tl.sum(weights, 0)
        else:
            # The mean over rows commutes with the product by V, so only one row of weights is left to multiply.
            weights = tl.zeros([BLOCK_SIZE], tl.float32)
            total = tl.zeros([BLOCK_D], tl.float32)
            query += row * query_b + at * query_l + dim[None, :]
            for head in range(groups):
                q = load_tile(query + (kv_head * groups + head) * query_h, real, True, HEAD_DIM, BLOCK_D)
                total += tl.sum(q.to(tl.float32), 0)
                scores = tl.dot(q, tl.trans(k), input_precision="ieee") * factor
                scores = tl.where(real[None, :], scores, float("-inf"))
                exponentials = tl.exp2(scores - tl.max(scores, 1)[:, None])
                weights += tl.sum(exponentials / tl.sum(exponentials, 1)[:, None], 0)
            weights = weights / (groups * BLOCK_SIZE)
            tl.store(sums + place, total, dim < HEAD_DIM)
        summary = tl.sum(weights[:, None] * v.to(tl.float32), 0)
    tl.store(summaries + place, summary, dim < HEAD_DIM)
