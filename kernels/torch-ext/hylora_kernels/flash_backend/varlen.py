# SPDX-License-Identifier: Apache-2.0
"""Flash attention over runs of tokens of different lengths, laid one after the other."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from ..inputs import accumulation_dtype
from ..plain import plain_backward, plain_forward
from ..scoring import Scoring

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
    """The share of these keys in the gradients of a softmax over possibly more keys; see `plain.plain_backward`."""
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
    output = torch.zeros_like(query)
    lse = query.new_zeros((query.shape[1], query.shape[0]), dtype=accumulation_dtype(query.dtype))
    for q_at, k_at in _slices(runs):
        keys = (_heads_first(x[k_at], query.shape[1]) for x in (key, value))
        attended, lse[:, q_at] = plain_forward(query[q_at].transpose(0, 1), *keys, causal, Scoring(scale), window)
        output[q_at] = attended.transpose(0, 1)
    return output, lse


def _plain_backward(grad, query, key, value, output, lse, runs, causal, scale, window):
    grads = [torch.zeros_like(x) for x in (query, key, value)]
    for q_at, k_at in _slices(runs):
        g, q, o = (x[q_at].transpose(0, 1) for x in (grad, query, output))
        k, v = (_heads_first(x[k_at], query.shape[1]) for x in (key, value))
        shares = plain_backward(g, q, k, v, o, lse[:, q_at], causal, Scoring(scale), window)
        for total, at, share in zip(grads, (q_at, k_at, k_at), shares):
            total[at] = share.unflatten(0, (total.shape[1], -1)).sum(dim=1).transpose(0, 1)
    return tuple(grads)


def _slices(runs: Runs):
    q, k = runs.queries.tolist(), runs.keys.tolist()
    return [(slice(*q[i : i + 2]), slice(*k[i : i + 2])) for i in range(len(q) - 1)]


def _heads_first(x: Tensor, heads: int) -> Tensor:
    """`[S, Hkv, D]` as `[H, S, D]`, each KV head repeated for its group."""
    return x.repeat_interleave(heads // x.shape[1], dim=1).transpose(0, 1)
