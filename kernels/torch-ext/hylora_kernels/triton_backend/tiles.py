# SPDX-License-Identifier: Apache-2.0
"""What the kernels over readers have in common: the size of a tile, and loading what it needs."""

from __future__ import annotations

from typing import Tuple

import triton
import triton.language as tl

from .launch import Launch


def tile_rows(launch: Launch, reader_size: int, groups: int) -> Tuple[int, int]:
    """Tokens and query heads of a tile of queries.

    Heads that share keys fill up the tile of a short reader; they are taken by powers of two.

    Args:
        launch: how many rows a tile may have.
        reader_size: tokens of the longest reader.
        groups: query heads per KV head.

    Returns:
        Tokens, a power of two of at least 16, and heads, which divide the group.
    """
    rows = min(launch.block_m, triton.next_power_of_2(max(16, reader_size)))
    return rows, min(launch.block_m // rows, groups & -groups)


@triton.jit
def load_tile(pointers, inside, MASKED: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load `[rows, BLOCK_D]`, 0 beyond the head dimension and, if masked, in rows that are not inside."""
    if HEAD_DIM != BLOCK_D:
        columns = (tl.arange(0, BLOCK_D) < HEAD_DIM)[None, :]
        tile = tl.load(pointers, columns & inside[:, None] if MASKED else columns, other=0.0)
    elif MASKED:
        tile = tl.load(pointers, inside[:, None], other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def list_length(blocks, capacity):
    """Number of blocks before the -1 at the end."""
    length = 0
    for first in range(0, capacity, 128):
        at = first + tl.arange(0, 128)
        length += tl.sum((tl.load(blocks + at, at < capacity, other=-1) >= 0).to(tl.int32))
    return length


@triton.jit
def has_bit(mask, place):
    """Whether the bit at that place of an int64 is set; in halves, since a GPU shifts 32 bits at a time."""
    half = tl.where(place < 32, mask.to(tl.int32), (mask >> 32).to(tl.int32))
    return (half << (31 - place % 32)) < 0
