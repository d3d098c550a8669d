# SPDX-License-Identifier: Apache-2.0
"""Flash attention over runs of tokens of different lengths, laid one after the other."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from ..options import accumulation_dtype

_aten = torch.ops.aten


class Runs(NamedTuple):
    """Which queries attend to which keys: run i of the one to run i of the other.

    Attributes:
        queries: `[runs + 1]` int32, where each run of queries begins, and the end of the last.
        keys: likewise of keys.
        longest_queries: tokens in the longest run of queries.
        longest_keys: tokens in the longest run of keys.
    """

    queries: Tensor
    keys: Tensor
    longest_queries: int
    longest_keys: int

    @classmethod
    def of(cls, query_lengths: List[int], key_lengths: List[int], device: torch.device) -> Runs:
        """The runs of these lengths."""
        bounds = (torch.tensor([0, *lengths]).cumsum(0).to(torch.int32) for lengths in (query_lengths, key_lengths))
        return cls(*(b.to(device) for b in bounds), max(query_lengths, default=0), max(key_lengths, default=0))


def varlen_forward(
    query: Tensor, key: Tensor, value: Tensor, runs: Runs, causal: bool, scale: float, window: Optional[int] = None
) -> Tuple[Tensor, Tensor]:
    """Attention within runs; with `causal` (runs of equal lengths) to earlier tokens, the last `window` of them.

    Query is `[T, H, D]`, key and value are `[S, Hkv, D]`, `Hkv` divides `H`. Returns the output and the log-sum-exp
    `[H, T]` of the scaled scores, the latter in at least float32.
    """
    if query.shape[0] == 0:  # flash attention wants at least one run
        return torch.empty_like(query), query.new_empty((query.shape[1], 0), dtype=accumulation_dtype(query.dtype))
    if query.device.type == "cpu":
        return _plain_forward(query, key, value, runs, causal, scale, window)
    output, lse, *_ = _aten._flash_attention_forward(
        *(query, key, value, *runs, 0.0, causal, False), scale=scale, **_window(window)
    )
    return output, lse


def varlen_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    runs: Runs,
    causal: bool,
    scale: float,
    window: Optional[int] = None,
) -> Tuple[Tensor, Tensor, Tensor]:
    """The share of these keys in the gradients of a softmax over possibly more keys; see `flash.flash_backward`."""
    if query.shape[0] == 0:
        return torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
    if query.device.type == "cpu":
        return _plain_backward(grad, query, key, value, output, lse, runs, causal, scale, window)
    # Without dropout the generator's state is not read.
    state = torch.zeros(2, dtype=torch.uint64, device=query.device)
    return _aten._flash_attention_backward(
        *(grad, query, key, value, output, lse.contiguous(), *runs, 0.0, causal, state, state[0]),
        scale=scale,
        **_window(window),
    )


def _window(window: Optional[int]) -> dict:
    return {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}


def _plain_forward(query, key, value, runs, causal, scale, window):
    dtype = accumulation_dtype(query.dtype)
    output, lse = torch.zeros_like(query), query.new_zeros((query.shape[1], query.shape[0]), dtype=dtype)
    for q_at, k_at in _slices(runs):
        scores, v = _scores(query[q_at], key[k_at], causal, scale, window), _per_query_head(value[k_at], query)
        lse[:, q_at] = scores.logsumexp(dim=-1)
        output[q_at] = (scores.softmax(dim=-1) @ v).transpose(0, 1).to(query.dtype)
    return output, lse


def _plain_backward(grad, query, key, value, output, lse, runs, causal, scale, window):
    dtype = accumulation_dtype(query.dtype)
    grads = [torch.zeros_like(x, dtype=dtype) for x in (query, key, value)]
    groups = query.shape[1] // key.shape[1]
    for q_at, k_at in _slices(runs):
        g, q, o = (x[q_at].transpose(0, 1).to(dtype) for x in (grad, query, output))
        k, v = (_per_query_head(x[k_at], query) for x in (key, value))
        weights = torch.exp(_scores(query[q_at], key[k_at], causal, scale, window) - lse[:, q_at, None])
        grad_scores = weights * (g @ v.mT - (g * o).sum(dim=-1, keepdim=True)) * scale
        grads[0][q_at] = (grad_scores @ k).transpose(0, 1)
        for total, share in ((grads[1], grad_scores.mT @ q), (grads[2], weights.mT @ g)):
            total[k_at] = share.unflatten(0, (-1, groups)).sum(dim=1).transpose(0, 1)
    return tuple(total.to(query.dtype) for total in grads)


def _slices(runs: Runs):
    q, k = runs.queries.tolist(), runs.keys.tolist()
    return [(slice(*q[i : i + 2]), slice(*k[i : i + 2])) for i in range(len(q) - 1)]


def _per_query_head(x: Tensor, query: Tensor) -> Tensor:
    """`[S, Hkv, D]` as `[H, S, D]`, each KV head repeated for its group."""
    return x.to(accumulation_dtype(x.dtype)).repeat_interleave(query.shape[1] // x.shape[1], dim=1).transpose(0, 1)


def _scores(query: Tensor, key: Tensor, causal: bool, scale: float, window: Optional[int]) -> Tensor:
    """`[H, T, S]`, -inf where a query does not see a key."""
    scores = query.to(accumulation_dtype(query.dtype)).transpose(0, 1) @ _per_query_head(key, query).mT * scale
    if causal:
        distance = torch.arange(len(query), device=query.device)[:, None] - torch.arange(len(key), device=key.device)
        hidden = (distance < 0) | (distance >= (window or len(key)))
        scores = scores.masked_fill(hidden, float("-inf"))
    return scores
