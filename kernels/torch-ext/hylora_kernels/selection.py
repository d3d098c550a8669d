# SPDX-License-Identifier: Apache-2.0
"""The choice of memory blocks, in batched tensor operations."""

from __future__ import annotations

import torch
from torch import Tensor

from .hashing import hashed_scores
from .options import SpanOptions, accumulation_dtype, landmark_query

# Temporaries hold at most about this many numbers. On a CPU they should stay in its cache, which halves the time of
# the summaries; elsewhere few launches matter more.
_SLICE = {"cpu": 1 << 18, "cuda": 1 << 24}


@torch.no_grad()
def select_blocks(query: Tensor, key: Tensor, value: Tensor, options: SpanOptions, scale: float) -> Tensor:
    """Choose blocks for one segment.

    Query `[R, Hq, n, D]`, key and value `[R, Hkv, n, D]`; the result is `[R, Hkv, units, top_k]`, best first, filled
    up with -1.
    """
    rows, heads, length, _ = key.shape
    units = options.units(length)
    chosen = torch.full((rows, heads, units, options.top_k), -1, device=key.device)
    blocks = options.candidates(units - 1)
    if not options.retrieves or blocks == 0:
        return chosen

    by_relevance = options.retrieval == "relevance"
    if by_relevance:
        summaries = summarize_blocks(query, key, value, blocks, options, scale)
        pooled = pool_queries(query, heads, options)
    index = torch.arange(max(heads, units, blocks), device=key.device)
    counts = torch.tensor([options.candidates(unit) for unit in range(units)], device=key.device)
    step = _per_slice(rows * heads * blocks, key.device)
    for first in range(0, units, step):
        at = slice(first, min(first + step, units))
        if by_relevance:
            scores = pooled[:, :, at] @ summaries.mT
        else:
            scores = hashed_scores(options.seed, index[:heads, None, None], index[at, None], index[:blocks])
            scores = scores.expand(rows, -1, -1, -1)
        chosen[:, :, at] = rank(scores, counts[at], options.top_k)
    return chosen


def rank(scores: Tensor, counts: Tensor, top_k: int) -> Tensor:
    """The best `top_k` of the first `counts[unit]` scores: indices, best first, filled up with -1.

    `scores` is `[..., units, blocks]`. The sort is stable: among equals the lower index comes first.
    """
    blocks = scores.shape[-1]
    lowest = float("-inf") if scores.is_floating_point() else -1
    excluded = torch.arange(blocks, device=scores.device) >= counts[:, None]
    order = scores.masked_fill(excluded, lowest).sort(dim=-1, descending=True, stable=True).indices[..., :top_k]
    missing = torch.arange(order.shape[-1], device=scores.device) >= counts[:, None]
    order = order.masked_fill(missing, -1)
    return torch.nn.functional.pad(order, (0, top_k - order.shape[-1]), value=-1)


def pool_queries(query: Tensor, heads: int, options: SpanOptions) -> Tensor:
    """The queries by which each unit selects, summed over tokens and the group's heads: `[R, Hkv, units, D]`."""
    dtype = accumulation_dtype(query.dtype)
    units = options.units(query.shape[2])
    full = query.shape[2] // options.unit_size
    tokens = full * options.unit_size
    pooled = query[:, :, :tokens].unflatten(2, (full, options.unit_size)).sum(dim=3, dtype=dtype)
    if units > full:
        pooled = torch.cat([pooled, query[:, :, tokens:].sum(dim=2, keepdim=True, dtype=dtype)], dim=2)
    pooled = pooled.unflatten(1, (heads, -1)).sum(dim=2)
    if options.chooses_for_next:
        # The first group selects with zeros, which is no matter: it has no candidates.
        pooled = torch.nn.functional.pad(pooled, (0, 0, 1, -1))
    return pooled


def summarize_blocks(
    query: Tensor, key: Tensor, value: Tensor, blocks: int, options: SpanOptions, scale: float
) -> Tensor:
    """Summaries of the first `blocks` blocks (equation 6.7 and its variants): `[R, Hkv, blocks, D]`."""
    rows, heads, _, head_dim = key.shape
    size, groups = options.block_size, query.shape[1] // heads
    dtype = accumulation_dtype(key.dtype)
    summaries = key.new_empty((rows, heads, blocks, head_dim), dtype=dtype)
    step = _per_slice(rows * heads * groups * size * max(size, head_dim), key.device)
    for first in range(0, blocks, step):
        last = min(first + step, blocks)
        q, k, v = (
            x[:, :, first * size : last * size].unflatten(2, (last - first, size)).to(dtype)
            for x in (query, key, value)
        )
        if options.summary == "mean_key":
            summaries[:, :, first:last] = k.mean(dim=3)
            continue
        if options.summary == "landmark":
            q = landmark_query(head_dim, options.seed).to(k).expand(rows, heads, last - first, 1, head_dim)
        else:
            q = q.unflatten(1, (heads, groups)).movedim(2, 3).flatten(3, 4)  # [R, Hkv, blocks, G * S, D]
        # The mean over rows commutes with the product by V, so only one row of weights is left to multiply.
        weights = (q @ k.mT).mul_(scale).softmax(dim=-1).mean(dim=-2, keepdim=True)
        summaries[:, :, first:last] = (weights @ v).squeeze(3)
    return summaries


def _per_slice(numbers: int, device: torch.device) -> int:
    """How many items of so many numbers each make up a slice; at least one."""
    return max(1, _SLICE.get(device.type, _SLICE["cuda"]) // numbers)


def query_features(query: Tensor, heads: int, options: SpanOptions, scale: float) -> Tensor:
    """What is multiplied with summaries, summed over the heads of a group: `[R, Hkv, n, W]` of `[R, Hq, n, D]`."""
    return query.to(accumulation_dtype(query.dtype)).unflatten(1, (heads, -1)).sum(dim=2)


def token_scores(query: Tensor, summaries: Tensor, options: SpanOptions, scale: float) -> Tensor:
    """How much each token wants each block: `[R, Hkv, n, blocks]` of query `[R, Hq, n, D]`."""
    return query_features(query, summaries.shape[1], options, scale) @ summaries.mT
