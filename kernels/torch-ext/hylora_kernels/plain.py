# SPDX-License-Identifier: Apache-2.0
"""Attention in plain operations, where torch has no kernel of it: all scores of some problems at a time."""

from __future__ import annotations

from typing import Optional, Tuple

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from .inputs import accumulation_dtype, follow_autocast
from .scoring import Scoring
from .sinks import check_sinks


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Optional[Tensor],
    scoring: Scoring,
    sinks: Optional[Tensor] = None,
) -> Tensor:
    """Attention under a mask; by torch's own function where it has what is asked for.

    Args:
        query: `[B, Hq, n, D]`.
        key: `[B, Hkv, m, D]`, `Hkv` divides `Hq`.
        value: `[B, Hkv, m, Dv]`.
        mask: bool, broadcastable to `[B, Hq, n, m]`, True where a query sees a key; None means everywhere.
        scoring: scale and softcap.
        sinks: `[Hq]`, one logit per query head; None for none.

    Returns:
        `[B, Hq, n, Dv]` in the query's dtype; zeros where a query sees nothing. Gradients flow.

    Raises:
        ValueError: sinks that are not one logit per head.
    """
    if scoring.softcap is None and sinks is None:
        grouped = query.shape[1] != key.shape[1]
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scoring.scale, enable_gqa=grouped)
    check_sinks(sinks, query)
    query, key, value = follow_autocast(query, key, value)
    with torch.autocast(query.device.type, enabled=False):
        return masked_softmax(query, key, value, mask, scoring, sinks)[0].to(query.dtype)


def masked_softmax(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Optional[Tensor],
    scoring: Scoring,
    sinks: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor]:
    """`masked_attention` and the log-sum-exp `[B, Hq, n]` of its scores, both in at least float32.

    The log-sum-exp is -inf where a query sees nothing, not even a sink.
    """
    dtype = accumulation_dtype(query.dtype)
    kv_heads = key.shape[1]
    query, key, value = query.to(dtype).unflatten(1, (kv_heads, -1)), key.to(dtype), value.to(dtype)
    scores = scoring.scores(query @ key[:, :, None].mT)  # [B, Hkv, G, n, m]
    if mask is None:
        seen = torch.ones_like(scores, dtype=torch.bool)
    else:
        seen = mask.expand(scores.flatten(1, 2).shape).unflatten(1, (kv_heads, -1))
    if sinks is not None:  # one more key, with the value 0
        column = sinks.to(dtype).view(kv_heads, -1, 1, 1).expand(*scores.shape[:-1], 1)
        seen = torch.cat([seen, column > float("-inf")], dim=-1)
        scores = torch.cat([scores, column], dim=-1)
        value = pad(value, (0, 0, 0, 1))
    blind = ~seen.any(dim=-1, keepdim=True)
    # The scores of those who see nothing stay finite, and so do their derivatives.
    scores = scores.masked_fill(~(seen | blind), float("-inf"))
    output = (scores.softmax(dim=-1) @ value[:, :, None]).masked_fill(blind, 0)
    lse = scores.logsumexp(dim=-1).masked_fill(blind.squeeze(-1), float("-inf"))
    return output.flatten(1, 2), lse.flatten(1, 2)


def plain_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    causal: bool,
    scoring: Scoring,
    window: Optional[int] = None,
) -> Tuple[Tensor, Tensor]:
    """Attention of `[..., Lq, D]` to `[..., Lk, D]`; with `causal` to earlier tokens, the last `window` of them.

    Returns the output and the log-sum-exp `[..., Lq]` of the scaled scores, both in at least float32.
    """
    value = value.to(accumulation_dtype(value.dtype))
    scores = _hide(_scores(query, key, scoring), causal, window)
    lse = scores.logsumexp(dim=-1)
    return torch.exp(scores - lse[..., None]) @ value, lse


def plain_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    causal: bool,
    scoring: Scoring,
    window: Optional[int] = None,
) -> Tuple[Tensor, Tensor, Tensor]:
    """The share of these keys in the gradients of a softmax over possibly more keys, whose output and lse these are.

    All flash backwards recompute exp(score - lse) and need the row sums of grad * output; with the whole softmax's
    values, the shares of its parts simply add up.
    """
    dtype = accumulation_dtype(query.dtype)
    grad, query, key, value, output = (x.to(dtype) for x in (grad, query, key, value, output))
    scores = _scores(query, key, scoring)
    slope = scoring.slope(scores)
    weights = torch.exp(_hide(scores, causal, window) - lse[..., None])
    grad_scores = weights * (grad @ value.mT - (grad * output).sum(dim=-1, keepdim=True)) * slope
    return grad_scores @ key, grad_scores.mT @ query, weights.mT @ grad


def _scores(query: Tensor, key: Tensor, scoring: Scoring) -> Tensor:
    """Scores `[..., Lq, Lk]` in at least float32."""
    dtype = accumulation_dtype(query.dtype)
    return scoring.scores(query.to(dtype) @ key.to(dtype).mT)


def _hide(scores: Tensor, causal: bool, window: Optional[int]) -> Tensor:
    """-inf, in place, where a query does not see a key."""
    if causal:
        queries, keys = (torch.arange(n, device=scores.device) for n in scores.shape[-2:])
        distance = queries[:, None] - keys
        hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
        scores.masked_fill_(hidden, float("-inf"))
    return scores
