# SPDX-License-Identifier: Apache-2.0
"""Flash attention that hands out its log-sum-exp, and the backward of a part of a larger softmax."""

from __future__ import annotations

from itertools import product
from typing import Iterator, Tuple

import torch
from torch import Tensor

from ..inputs import accumulation_dtype
from ..plain import plain_backward, plain_forward
from ..scoring import Scoring

_aten = torch.ops.aten

# Scores that plain operations hold at a time.
_SCORES = 1 << 24


def flash_forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, scoring: Scoring) -> Tuple[Tensor, Tensor]:
    """Attention of `[N, C, Lq, D]` to `[N, C, Lk, D]`; with `causal`, query i sees keys up to i (Lq == Lk).

    Returns the output and the log-sum-exp `[N, C, Lq]` of the scores, the latter in at least float32. Scores with a
    bound, which torch's flash attention has none of, take plain operations.
    """
    if query.device.type == "cpu" and scoring.softcap is None:
        return _aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, scale=scoring.scale)
    return math_forward(query, key, value, causal, scoring)


def flash_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    causal: bool,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor, Tensor]:
    """The share of these keys in the gradients of a softmax over possibly more keys.

    `output` and `lse` are those of the whole softmax; see `plain.plain_backward`.
    """
    if query.device.type == "cpu" and scoring.softcap is None:
        return _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, query, key, value, output, lse, 0.0, causal, scale=scoring.scale
        )
    return math_backward(grad, query, key, value, output, lse, causal, scoring)


def math_forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, scoring: Scoring) -> Tuple[Tensor, Tensor]:
    """`flash_forward` in plain operations, some `[Lq, Lk]` matrices of scores at a time."""
    output, lse = torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=accumulation_dtype(query.dtype))
    for at in _problems(query, key):
        output[at], lse[at] = plain_forward(query[at], key[at], value[at], causal, scoring)
    return output, lse


def math_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    causal: bool,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor, Tensor]:
    """`flash_backward` in plain operations, some `[Lq, Lk]` matrices of scores at a time."""
    tensors = grad, query, key, value, output, lse
    grads = tuple(torch.empty_like(x) for x in (query, key, value))
    for at in _problems(query, key):
        shares = plain_backward(*(x[at] for x in tensors), causal, scoring)
        for total, share in zip(grads, shares):
            total[at] = share
    return grads


def _problems(query: Tensor, key: Tensor) -> Iterator[Tuple[slice, slice]]:
    """The first two dimensions, cut so that the scores of a piece are few, or those of one problem."""
    most = _SCORES // (query.shape[2] * key.shape[2])
    steps = max(1, most // query.shape[1]), max(1, most)
    firsts = (range(0, size, step) for size, step in zip(query.shape, steps))
    return ((slice(n, n + steps[0]), slice(c, c + steps[1])) for n, c in product(*firsts))
