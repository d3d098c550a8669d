# SPDX-License-Identifier: Apache-2.0
"""Operations and hidden memory of the operators of `hylora_kernels`, which torch does not look into."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import hylora_kernels.ops  # noqa: F401  defines the operators
from hylora_kernels.options import group_size

__all__ = ["is_long_attention", "long_attention_operations", "long_attention_workspace"]

_OPS = torch.ops.hylora_kernels
_FORWARD = {
    _OPS.span_attention.default: "span",
    _OPS.sliding_window_attention.default: "window",
    _OPS.shifted_sparse_attention.default: "shifted",
}
_BACKWARD = {
    _OPS.span_attention_backward.default: "span",
    _OPS.sliding_window_attention_backward.default: "window",
    _OPS.shifted_sparse_attention_backward.default: "shifted",
}


def is_long_attention(func: Callable) -> bool:
    """Whether an operator is one of these, forward or backward."""
    return func in _FORWARD or func in _BACKWARD


def long_attention_operations(func: Callable, args: tuple) -> int:
    """Operations of the products with keys and values; those of the choice of blocks are counted elsewhere.

    Args:
        func: one of these operators.
        args: of the call.
    """
    # Gradients are four products; the scores are made once more.
    products = 2 if func in _FORWARD else 5
    (query, *_), settings = _tensors_and_settings(func, args)
    batch, heads, length, width = query.shape
    kind = _FORWARD.get(func) or _BACKWARD[func]
    pairs = {"span": _span_pairs, "window": _window_pairs, "shifted": _shifted_pairs}[kind](length, *settings)
    return int(2 * products * batch * heads * width * pairs)


def long_attention_workspace(func: Callable, args: tuple) -> int:
    """Bytes that the GPU backends allocate inside: Triton for span-expanded attention, flash for its rivals.

    Args:
        func: one of these operators.
        args: of the call.
    """
    (query, key), settings = _tensors_and_settings(func, args)
    if func in _FORWARD:
        if _FORWARD[func] != "span":
            return 0
        # Summaries of blocks and sums of their queries, in float32.
        return 2 * 4 * key.numel() // settings[0]
    if _BACKWARD[func] == "span":
        # The row sums of gradient and output, in float32.
        return 4 * query.numel() // query.shape[-1]
    # As in full attention: the gradient of the queries in float32, and one of grouped keys per query head.
    grouped = query.shape[1] != key.shape[1]
    return query.numel() * (4 + 2 * query.element_size() * grouped)


def _tensors_and_settings(func: Callable, args: tuple) -> tuple[tuple[Tensor, Tensor], tuple]:
    """Query and key of a call, and what follows its tensors."""
    if func in _FORWARD:
        return args[:2], args[4:]
    saved = 3 if _BACKWARD[func] == "span" else 2
    return args[1:3], args[5 + saved :]


def _triangle(side: int) -> int:
    return side * (side + 1) // 2


def _span_pairs(length: int, block_size: int, top_k: int, chunk_size: int, *rest) -> int:
    """Pairs of queries and keys in one sequence and head; other retrievals choose as many blocks."""
    retrieves = "none" not in rest
    pairs = 0
    for start in range(0, length, chunk_size):
        tokens = min(chunk_size, length - start)
        blocks = min(top_k, start // block_size) if retrieves else 0
        pairs += _triangle(tokens) + tokens * blocks * block_size
    return pairs


def _window_pairs(length: int, window: int, *_) -> int:
    filling = min(window, length)
    return _triangle(filling) + (length - filling) * window


def _shifted_pairs(length: int, group: float, *_) -> float:
    size = group_size(group, length)
    half = min(size // 2, length)
    plain = _grid_pairs(length, size)
    return (plain + _triangle(half) + _grid_pairs(length - half, size)) / 2


def _grid_pairs(length: int, size: int) -> int:
    full, rest = divmod(length, size)
    return full * _triangle(size) + _triangle(rest)
