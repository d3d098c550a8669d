# SPDX-License-Identifier: Apache-2.0
"""Flash attention that hands out its log-sum-exp, and the backward of a part of a larger softmax."""

from __future__ import annotations

from typing import Tuple

import torch
from torch import Tensor

from .options import accumulation_dtype

_aten = torch.ops.aten


def flash_forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> Tuple[Tensor, Tensor]:
    """Attention of `[N, C, Lq, D]` to `[N, C, Lk, D]`; with `causal`, query i sees keys up to i (Lq == Lk).

    Returns the output and the log-sum-exp `[N, C, Lq]` of the scaled scores, the latter in at least float32.
    """
    if query.device.type == "cpu":
        return _aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, scale=scale)
    return math_forward(query, key, value, causal, scale)


def flash_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor, causal: bool, scale: float
) -> Tuple[Tensor, Tensor, Tensor]:
    """The share of these keys in the gradients of a softmax over possibly more keys.

    `output` and `lse` are those of the whole softmax. All flash backwards recompute exp(score - lse) and need the
    row sums of grad * output; with the whole softmax's values, the shares of its parts simply add up.
    """
    if query.device.type == "cpu":
        return _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, query, key, value, output, lse, 0.0, causal, scale=scale
        )
    return math_backward(grad, query, key, value, output, lse, causal, scale)


def math_forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> Tuple[Tensor, Tensor]:
    """`flash_forward` in plain operations, one `[Lq, Lk]` matrix of scores at a time."""
    dtype = accumulation_dtype(query.dtype)
    output, lse = torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=dtype)
    for at in _problems(query):
        scores = _scores(query[at].to(dtype), key[at].to(dtype), causal, scale)
        lse[at] = scores.logsumexp(dim=-1)
        output[at] = torch.exp(scores - lse[at][:, None]) @ value[at].to(dtype)
    return output, lse


def math_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor, causal: bool, scale: float
) -> Tuple[Tensor, Tensor, Tensor]:
    """`flash_backward` in plain operations, one `[Lq, Lk]` matrix of scores at a time."""
    dtype = accumulation_dtype(query.dtype)
    grad_query, grad_key, grad_value = (torch.empty_like(x) for x in (query, key, value))
    for at in _problems(query):
        g, q, k, v, o = (x[at].to(dtype) for x in (grad, query, key, value, output))
        weights = torch.exp(_scores(q, k, causal, scale) - lse[at][:, None])
        grad_value[at] = weights.T @ g
        grad_scores = weights * (g @ v.T - (g * o).sum(dim=-1, keepdim=True)) * scale
        grad_query[at] = grad_scores @ k
        grad_key[at] = grad_scores.T @ q
    return grad_query, grad_key, grad_value


def _problems(query: Tensor):
    return ((n, c) for n in range(query.shape[0]) for c in range(query.shape[1]))


def _scores(query: Tensor, key: Tensor, causal: bool, scale: float) -> Tensor:
    scores = query @ key.T * scale
    if causal:
        scores.masked_fill_(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
    return scores
