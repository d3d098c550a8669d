# SPDX-License-Identifier: Apache-2.0
"""Flash attention in plain operations, where torch has no kernel of it: all scores of some problems at a time."""

from __future__ import annotations

from typing import Optional, Tuple

import torch
from torch import Tensor

from .inputs import accumulation_dtype


def plain_forward(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float, window: Optional[int] = None
) -> Tuple[Tensor, Tensor]:
    """Attention of `[..., Lq, D]` to `[..., Lk, D]`; with `causal` to earlier tokens, the last `window` of them.

    Returns the output and the log-sum-exp `[..., Lq]` of the scaled scores, both in at least float32.
    """
    value = value.to(accumulation_dtype(value.dtype))
    scores = _scores(query, key, causal, scale, window)
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
    scale: float,
    window: Optional[int] = None,
) -> Tuple[Tensor, Tensor, Tensor]:
    """The share of these keys in the gradients of a softmax over possibly more keys, whose output and lse these are.

    All flash backwards recompute exp(score - lse) and need the row sums of grad * output; with the whole softmax's
    values, the shares of its parts simply add up.
    """
    dtype = accumulation_dtype(query.dtype)
    grad, query, key, value, output = (x.to(dtype) for x in (grad, query, key, value, output))
    weights = torch.exp(_scores(query, key, causal, scale, window) - lse[..., None])
    grad_scores = weights * (grad @ value.mT - (grad * output).sum(dim=-1, keepdim=True)) * scale
    return grad_scores @ key, grad_scores.mT @ query, weights.mT @ grad


def _scores(query: Tensor, key: Tensor, causal: bool, scale: float, window: Optional[int]) -> Tensor:
    """`[..., Lq, Lk]`, -inf where a query does not see a key."""
    dtype = accumulation_dtype(query.dtype)
    scores = query.to(dtype) @ key.to(dtype).mT * scale
    if causal:
        queries, keys = (torch.arange(n, device=scores.device) for n in scores.shape[-2:])
        distance = queries[:, None] - keys
        hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
        scores.masked_fill_(hidden, float("-inf"))
    return scores
