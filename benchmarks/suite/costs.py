# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations and bytes that a method cannot do without, by formula.

Counted are the matrix products of attention over the pairs of a query and a key that the method's mask lets through
(not the choice of blocks, and not what a kernel computes beyond its mask), and each input and output once.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

# Matrix products over queries, keys and head dimension: Q K' and P V; backward Q K' once more, and four others.
_PRODUCTS = {"forward": 2, "backward": 5, "forward+backward": 7}
# Tensors of the query's and of the key's shape: q, o and k, v; backward q, o, do, dq and k, v, dk, dv.
_TENSORS = {"forward": (2, 2), "backward": (4, 4), "forward+backward": (6, 6)}


def full_pairs(length: int) -> float:
    """Every token with itself and all before it."""
    return length * (length + 1) / 2


def chunk_pairs(size: int) -> Callable[[int], float]:
    """Full causal attention within chunks of a size."""

    def pairs(length: int) -> float:
        whole, rest = divmod(length, size)
        return whole * full_pairs(size) + full_pairs(rest)

    return pairs


def span_pairs(options) -> Callable[[int], float]:
    """Own chunks, and for each later chunk's tokens the blocks it retrieves."""
    own = chunk_pairs(options.chunk_size)

    def pairs(length: int) -> float:
        retrieved = 0
        for start in range(options.chunk_size, length, options.chunk_size):
            blocks = min(options.top_k, start // options.block_size)
            retrieved += min(options.chunk_size, length - start) * blocks * options.block_size
        return own(length) + retrieved

    return pairs


def window_pairs(window: int) -> Callable[[int], float]:
    """Every token with the `window` tokens that end with it."""

    def pairs(length: int) -> float:
        return full_pairs(min(length, window)) + max(0, length - window) * window

    return pairs


def shifted_pairs(group: float) -> Callable[[int], float]:
    """The mean over heads, of which half have their groups shifted by half a group."""

    def pairs(length: int) -> float:
        size = ceil(group * length)
        half = min(size // 2, length)
        return (chunk_pairs(size)(length) + full_pairs(half) + chunk_pairs(size)(length - half)) / 2

    return pairs


def operations(pairs: float, heads: int, head_dim: int, pass_name: str) -> float:
    """Floating-point operations of a pass with so many pairs per query head."""
    return 2 * _PRODUCTS[pass_name] * pairs * heads * head_dim


def traffic(heads: int, kv_heads: int, length: int, head_dim: int, itemsize: int, pass_name: str) -> int:
    """Bytes of the inputs and outputs of a pass, each once."""
    of_queries, of_keys = _TENSORS[pass_name]
    return (of_queries * heads + of_keys * kv_heads) * length * head_dim * itemsize
