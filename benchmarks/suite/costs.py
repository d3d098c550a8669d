# SPDX-License-Identifier: Apache-2.0
"""What a method cannot do without, by formula, and what the device reaches at best, measured.

Counted are the matrix products of attention over the pairs of a query and a key that the method's mask lets through
(not the choice of blocks, and not what a kernel computes beyond its mask), and each input and output once.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor

from .timing import cold_stopwatch

# Matrix products over queries, keys and head dimension: Q K' and P V; backward Q K' once more, and four others.
_PRODUCTS = {"forward": 2, "backward": 5, "forward+backward": 7}
# Tensors of the query's and as many of the key's shape: q, o and k, v; backward q, o, do, dq and k, v, dk, dv.
_TENSORS = {"forward": 2, "backward": 4, "forward+backward": 6}
Pairs = Callable[[int], float]


def full_pairs(length: int) -> float:
    """Every token with itself and all before it."""
    return length * (length + 1) / 2


def chunk_pairs(size: int) -> Pairs:
    """Full causal attention within chunks of a size."""
    return lambda length: length // size * full_pairs(size) + full_pairs(length % size)


def span_pairs(options) -> Pairs:
    """Own chunks, and for each later chunk's tokens the blocks it retrieves."""

    def pairs(length: int) -> float:
        retrieved = 0
        for start in range(options.chunk_size, length, options.chunk_size):
            blocks = min(options.top_k, start // options.block_size)
            retrieved += min(options.chunk_size, length - start) * blocks * options.block_size
        return chunk_pairs(options.chunk_size)(length) + retrieved

    return pairs


def window_pairs(window: int) -> Pairs:
    """Every token with the `window` tokens that end with it."""
    return lambda length: full_pairs(min(length, window)) + max(0, length - window) * window


def shifted_pairs(group: float) -> Pairs:
    """The mean over heads, of which half have their groups shifted by half a group."""

    def pairs(length: int) -> float:
        size = ceil(group * length)
        half = min(size // 2, length)
        return (chunk_pairs(size)(length) + full_pairs(half) + chunk_pairs(size)(length - half)) / 2

    return pairs


def operations(pairs: float, heads: int, head_dim: int, pass_name: str) -> float:
    """Floating-point operations of a pass with so many pairs per query head."""
    return 2 * _PRODUCTS[pass_name] * pairs * heads * head_dim


def kernel_operations(
    blocks: Tensor, options, block_size: int, heads: int, length: int, by_library: bool
) -> dict[str, float]:
    """Floating-point operations of the matrix products of each kernel that has a part in attention, by its name.

    More than a method cannot do without: the backward's kernels each compute the scores anew.

    Args:
        blocks: `[Hkv, units, top_k]`, those that are read, -1 for none.
        options: chunks and head dimension.
        block_size: tokens of a block.
        heads: query heads.
        length: tokens.
        by_library: whether own chunks are computed by a library, whose kernels have other names.
    """
    unit = -(-length // blocks.shape[1])
    retrieved = int((blocks >= 0).sum()) * block_size * unit / blocks.shape[0]
    own = 0 if by_library else chunk_pairs(options.chunk_size)(length)
    product = 2 * heads * options.head_dim
    return {
        "_attention_forward": 2 * (own + retrieved * (unit > 1)) * product,
        "_query_gradient": 3 * (own + retrieved * (unit > 1)) * product,
        "_own_gradients": 4 * own * product,
        "_add_retrieved_gradients": 4 * retrieved * product,
        "_attend_pairs": 2 * retrieved * product,
        "_differentiate_pairs": 5 * retrieved * product,
    }


def traffic(heads: int, kv_heads: int, length: int, head_dim: int, itemsize: int, pass_name: str) -> int:
    """Bytes of the inputs and outputs of a pass, each once."""
    return _TENSORS[pass_name] * (heads + kv_heads) * length * head_dim * itemsize


def measure_ceilings(device: torch.device, dtype: torch.dtype, side: int, copied: int) -> dict[str, dict]:
    """Operations per second of a square matrix product and bytes per second, read and written, of a copy.

    Args:
        device: to measure.
        dtype: of the matrices, which are random: zeros take less power and go faster.
        side: of the matrices.
        copied: bytes that are copied.
    """
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.randn(copied // 4, device=device)
    target = torch.empty_like(source)
    timed = cold_stopwatch(device)

    def median(run: Callable[[], object]) -> float:
        return statistics.median([timed(run, device) for _ in range(13)][3:])

    flops, rate = 2 * side**3 / median(lambda: left @ right), 2 * copied / median(lambda: target.copy_(source))
    return {
        "matmul": {"side": side, "dtype": str(dtype).removeprefix("torch."), "flops_per_second": flops},
        "copy": {"bytes": copied, "bytes_per_second": rate},
    }
