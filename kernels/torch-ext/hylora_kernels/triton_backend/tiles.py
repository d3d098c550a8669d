# SPDX-License-Identifier: Apache-2.0
"""What kernels have in common: the size of a tile, whose it is, and loading what it needs."""

from __future__ import annotations

from typing import Tuple

import triton
import triton.language as tl

from .columns import FIRST, ROW, TOKENS
from .launch import Launch, padded


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
    rows = min(launch.block_m, padded(reader_size))
    return rows, min(launch.block_m // rows, groups & -groups)


@triton.jit
def reader_tile(tiles, groups, ROWS: tl.constexpr, HEADS: tl.constexpr):
    """The reader whose tile of queries this program computes, the tile's place in it, KV head and first query head.

    Programs that run together share keys: the heads of a group are neighbours, then the tiles of a chunk. Of these the
    last, which read most, start first.
    """
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    head_tiles = groups // HEADS
    tile = program // head_tiles % tiles
    reader = program // head_tiles // tiles
    kv_head = tl.program_id(1)
    return reader, tile * ROWS, kv_head, kv_head * groups + program % head_tiles * HEADS


@triton.jit
def vector_at(strides, row, head, position):
    """Where a token's vector begins in `[B, H, L, D]` of these strides."""
    return row * strides[0] + head * strides[1] + position * strides[2]


@triton.jit
def read_run(table, item, WIDTH: tl.constexpr):
    """Row, first position and end of an item of a table."""
    row = tl.load(table + item * WIDTH + ROW).to(tl.int64)
    start = tl.load(table + item * WIDTH + FIRST)
    return row, start, start + tl.load(table + item * WIDTH + TOKENS)


@triton.jit
def listed_tokens(blocks, sequence_start, first, tokens, BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Positions of the tokens of listed blocks, counted through the list from `first` on."""
    token = first + tl.arange(0, BLOCK_N)
    # What is missing reads the first block, which is whole if any was chosen, rather than mask every load.
    block = tl.load(blocks + token // BLOCK_SIZE, token < tokens, other=0)
    return (sequence_start + block * BLOCK_SIZE + token % BLOCK_SIZE).to(tl.int64)


@triton.jit
def load_tile(pointers, inside, MASKED: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load `[rows, BLOCK_D]`, 0 beyond the head dimension and, if masked, in rows that are not inside."""
    if HEAD_DIM < BLOCK_D:
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
