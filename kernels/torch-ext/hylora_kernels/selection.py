# SPDX-License-Identifier: Apache-2.0
"""The choice of memory blocks, in batched tensor operations."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from .hashing import hashed_scores
from .inputs import accumulation_dtype, landmark_query, summary_dtype
from .options import TWO_VECTORS, SpanOptions, summary_width

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

    counts = options.candidates(torch.arange(units, device=key.device))
    index = torch.arange(max(heads, units, blocks), device=key.device)
    if options.retrieval == "relevance":
        summaries = summarize_blocks(query, key, value, blocks, options, scale).to(accumulation_dtype(key.dtype))
        if not options.chooses_per_token and not options.pools_scores:
            pooled = pool_queries(query, heads, options, scale)

    def score(at: slice, blocks: int) -> Tensor:
        if options.retrieval == "random":
            scores = hashed_scores(options.seed, index[:heads, None, None], index[at, None], index[:blocks])
            return scores.expand(rows, -1, -1, -1)
        seen = summaries[:, :, :blocks]
        if options.chooses_per_token:
            return token_scores(query[:, :, at], seen, options, scale)
        if options.pools_scores:
            of_units = [unit_scores(query, seen, unit, options, scale) for unit in range(at.start, at.stop)]
            return torch.stack(of_units, dim=2)
        return pooled[:, :, at] @ seen.mT

    step = 4 * _per_slice(rows * heads * blocks, key.device)  # scores are passed over less often than summaries
    for first in range(0, units, step):
        at = slice(first, min(first + step, units))
        blocks = options.candidates(at.stop - 1)  # nobody in the slice may choose a later one
        if blocks == 0:
            continue
        if options.candidates(first) == blocks:
            count = min(options.top_k, blocks)
            chosen[:, :, at, :count] = best(score(at, blocks), count)
        else:
            chosen[:, :, at] = rank(score(at, blocks), counts[at], options.top_k)
    return chosen


def rank(scores: Tensor, counts: Tensor, top_k: int) -> Tensor:
    """The best `top_k` of the first `counts[unit]` scores: indices, best first, filled up with -1.

    `scores` is `[..., units, blocks]`. Among equals the lower index comes first.
    """
    blocks = scores.shape[-1]
    lowest = float("-inf") if scores.is_floating_point() else -1
    index = torch.arange(blocks, dtype=torch.int32, device=scores.device)
    order = best(scores.masked_fill(index >= counts[:, None], lowest), min(top_k, blocks))
    missing = index[: order.shape[-1]] >= counts[:, None]
    order = order.masked_fill(missing, -1)
    return torch.nn.functional.pad(order, (0, top_k - order.shape[-1]), value=-1)


def best(scores: Tensor, count: int) -> Tensor:
    """`scores.sort(descending=True, stable=True).indices[..., :count]`, in less time."""
    if count == 0:
        return scores.new_empty((*scores.shape[:-1], 0), dtype=torch.int64)
    # Of those equal to the worst that is taken, `topk` may take any: here the first.
    worst = scores.topk(count, dim=-1).values[..., -1:]
    blocks = scores.shape[-1]
    earlier = torch.arange(blocks, 0, -1, dtype=torch.int32, device=scores.device)
    key = torch.where(scores == worst, earlier, 0).masked_fill_(scores > worst, blocks + 1)
    taken = key.topk(count, dim=-1, sorted=False).indices.sort(dim=-1).values
    order = scores.gather(-1, taken).sort(dim=-1, descending=True, stable=True).indices
    return taken.gather(-1, order)


def query_features(query: Tensor, heads: int, options: SpanOptions, scale: float) -> Tensor:
    """What is multiplied with summaries, summed over the heads of a group: `[R, Hkv, n, W]` of `[R, Hq, n, D]`."""
    query = query.to(accumulation_dtype(query.dtype)).unflatten(1, (heads, -1))
    total = query.sum(dim=2)
    if options.summary not in TWO_VECTORS:
        return total
    spread = query.square().mul_(scale) if options.summary == "gaussian" else query.abs()
    return torch.cat([total, spread.sum(dim=2)], dim=-1)


def block_scores(features: Tensor, summaries: Tensor) -> Tensor:
    """Products of features `[R, Hkv, n, W]` with summaries `[R, Hkv, blocks, W]`, in the dtype of the features."""
    if summaries.dtype == features.dtype:
        return features @ summaries.mT
    # Widened in the same memory again and again: to get new memory takes a CPU longer than the products.
    rows, heads, blocks, width = summaries.shape
    step = _per_slice(rows * heads * width, summaries.device)
    wide = features.new_empty(rows, heads, min(step, blocks), width)
    scores = features.new_empty(*features.shape[:3], blocks)
    for first in range(0, blocks, step):
        part = summaries[:, :, first : first + step]
        scores[..., first : first + step] = features @ wide[:, :, : part.shape[2]].copy_(part).mT
    return scores


def token_scores(query: Tensor, summaries: Tensor, options: SpanOptions, scale: float) -> Tensor:
    """How much each token wants each block: `[R, Hkv, n, blocks]` of query `[R, Hq, n, D]`."""
    heads = summaries.shape[1]
    if options.summary != "representatives":
        return block_scores(query_features(query, heads, options, scale), summaries)
    summaries = summaries.to(accumulation_dtype(query.dtype))
    query = query.to(summaries.dtype).unflatten(1, (heads, -1))
    vectors = summaries.unflatten(3, (-1, query.shape[-1])).unbind(dim=3)
    # Of each head the log-sum-exp over a block's keys, had the rest of them all been their mean.
    total = torch.zeros((), dtype=summaries.dtype, device=summaries.device)
    for of_head in query.unbind(dim=2):
        products = torch.stack([of_head @ vector.mT for vector in vectors]).mul_(scale)
        rest = options.block_size - options.representatives
        products[-1] += log(rest) if rest else float("-inf")
        total = total + products.logsumexp(dim=0) / scale
    return total


def unit_scores(query: Tensor, summaries: Tensor, unit: int, options: SpanOptions, scale: float) -> Tensor:
    """How much one unit's queries together want each block, by pooling their scores: `[R, Hkv, blocks]`."""
    source = unit - 1 if options.chooses_for_next else unit
    count, size = options.candidates(unit), options.unit_size
    scores = summaries.new_zeros(summaries.shape[:3])
    if source < 0 or count == 0:
        return scores
    tokens = query[:, :, source * size : (source + 1) * size]
    step = _per_slice(query.shape[1] * query.shape[0] * count * (options.representatives + 1), query.device)
    parts = (token_scores(part, summaries[:, :, :count], options, scale) for part in tokens.split(step, dim=2))
    if options.pooling == "sum":
        scores[:, :, :count] = sum(part.sum(dim=2) for part in parts)
    else:
        best = [part.mul_(scale).log_softmax(dim=3).amax(dim=2) for part in parts]
        scores[:, :, :count] = torch.stack(best).amax(dim=0)
    return scores


def pool_queries(query: Tensor, heads: int, options: SpanOptions, scale: float) -> Tensor:
    """The features by which each unit selects, summed over its tokens and the group's heads: `[R, Hkv, units, W]`."""
    features = query_features(query, heads, options, scale)
    units = options.units(query.shape[2])
    full = query.shape[2] // options.unit_size
    tokens = full * options.unit_size
    pooled = features[:, :, :tokens].unflatten(2, (full, options.unit_size)).sum(dim=3)
    if units > full:
        pooled = torch.cat([pooled, features[:, :, tokens:].sum(dim=2, keepdim=True)], dim=2)
    if options.chooses_for_next:
        # The first group selects with zeros, which is no matter: it has no candidates.
        pooled = torch.nn.functional.pad(pooled, (0, 0, 1, -1))
    return pooled


def summarize_blocks(
    query: Tensor, key: Tensor, value: Tensor, blocks: int, options: SpanOptions, scale: float
) -> Tensor:
    """Summaries of the first `blocks` blocks (equation 6.7 and its variants), of width W: `[R, Hkv, blocks, W]`.

    They are computed in at least float32, and rounded to the options' `summary_dtype`.
    """
    rows, heads, _, head_dim = key.shape
    size, groups = options.block_size, query.shape[1] // heads
    dtype = accumulation_dtype(key.dtype)
    shape = (rows, heads, blocks, summary_width(options, head_dim))
    summaries = key.new_empty(shape, dtype=summary_dtype(options, key.dtype))
    step = _per_slice(rows * heads * groups * size * max(size, head_dim), key.device)
    for first in range(0, blocks, step):
        last = min(first + step, blocks)
        q, k, v = (
            x[:, :, first * size : last * size].unflatten(2, (last - first, size)).to(dtype)
            for x in (query, key, value)
        )
        if options.summary not in ("attention", "landmark"):
            summaries[:, :, first:last] = _summarize_keys(k, options)
            continue
        if options.summary == "landmark":
            q = landmark_query(head_dim, options.seed).to(k).expand(rows, heads, last - first, 1, head_dim)
        else:
            q = q.unflatten(1, (heads, groups)).movedim(2, 3).flatten(3, 4)  # [R, Hkv, blocks, G * S, D]
        # The mean over rows commutes with the product by V, so only one row of weights is left to multiply.
        weights = (q @ k.mT).mul_(scale).softmax(dim=-1).mean(dim=-2, keepdim=True)
        summaries[:, :, first:last] = (weights @ v).squeeze(3)
    return summaries


def _summarize_keys(keys: Tensor, options: SpanOptions) -> Tensor:
    """Summaries `[..., W]` of blocks of keys `[..., S, D]`."""
    if options.summary == "representatives":
        return _represent(keys, options.representatives)
    if options.summary == "min_max":
        low, high = keys.aminmax(dim=-2)
        return torch.cat([(low + high) / 2, (high - low) / 2], dim=-1)
    mean = keys.mean(dim=-2)
    if options.summary == "mean_key":
        return mean
    variance = (keys - mean[..., None, :]).square_().mean(dim=-2)
    return torch.cat([mean, variance.sqrt() if options.summary == "mean_std" else variance / 2], dim=-1)


def _represent(keys: Tensor, count: int) -> Tensor:
    """Keys, each the farthest from those before it and from the mean of all; then the mean of the rest."""
    size, head_dim = keys.shape[-2:]
    point, distance = keys.mean(dim=-2, keepdim=True), None
    rest, chosen = keys.sum(dim=-2, keepdim=True), []
    for _ in range(count):
        nearest = (keys - point).square().sum(dim=-1)
        distance = nearest if distance is None else torch.minimum(distance, nearest)
        at = distance.argmax(dim=-1, keepdim=True)  # the first of equals
        distance = distance.scatter(-1, at, float("-inf"))
        point = keys.gather(-2, at[..., None].expand(*at.shape, head_dim))
        chosen.append(point)
        rest = rest - point
    return torch.cat([*chosen, rest / max(1, size - count)], dim=-2).flatten(-2)


def _per_slice(numbers: int, device: torch.device) -> int:
    """How many items of so many numbers each make up a slice; at least one."""
    return max(1, _SLICE.get(device.type, _SLICE["cuda"]) // numbers)
