# SPDX-License-Identifier: Apache-2.0
"""Small units and the blocks they chose, as pairs sorted by block: a block meets all of its queries in dense products.

A pair is a unit and one of its slots. What the products give for each pair is put together slot by slot afterwards;
it takes memory, hence pairs come in slices.
"""

from __future__ import annotations

from typing import Dict, Iterator, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .columns import BLOCK_WIDTH, FIRST, ROW, TOKENS, UNIT_WIDTH
from .inverse import InverseLists, inverse_lists
from .launch import Launch
from .tables import SpanTables

# Results of pairs take about this many numbers at a time, and those of at least one unit of one KV head.
_SLICE = 1 << 27


class PairSlice(NamedTuple):
    """The pairs of some units and KV heads.

    Attributes:
        heads: the query heads.
        kv_heads: the KV heads.
        chosen: `[Hkv, units, top_k]` int32, contiguous: the blocks, -1 where a slot is empty.
        units: `[units, 6]`: their rows of the table.
        inverse: the pairs in the order of their blocks.
    """

    heads: slice
    kv_heads: slice
    chosen: Tensor
    units: Tensor
    inverse: InverseLists


def pair_slices(chosen: Tensor, tables: SpanTables, groups: int, head_dim: int) -> Iterator[PairSlice]:
    """All pairs of `[Hkv, units, top_k]` choices; slices of the same KV heads follow each other."""
    kv_heads, units, top_k = chosen.shape
    if chosen.numel() == 0:
        return
    numbers = groups * top_k * tables.unit_size * head_dim
    heads_at_once = max(1, min(kv_heads, _SLICE // (units * numbers)))
    units_at_once = max(1, min(units, _SLICE // numbers))
    for head in range(0, kv_heads, heads_at_once):
        own = slice(head, min(head + heads_at_once, kv_heads))
        for unit in range(0, units, units_at_once):
            part = chosen[own, unit : unit + units_at_once].contiguous()
            table = tables.units[unit : unit + units_at_once]
            inverse = inverse_lists(part, table, tables.blocks.shape[0])
            yield PairSlice(slice(own.start * groups, own.stop * groups), own, part, table, inverse)


def pair_tile(launch: Launch, unit_size: int, groups: int) -> Dict[str, int]:
    """What kernels are told of a tile of queries: rows, pairs and query heads; and pairs of a program.

    A program takes the pairs of one block, tile after tile: `block_m` rows, or those of one pair, at a time, and
    `block_n` rows, or those of one tile, in all.
    """
    tokens = triton.next_power_of_2(unit_size)
    heads = min(max(1, launch.block_m // tokens), groups & -groups)
    pairs = max(1, launch.block_m // (tokens * heads))
    size = max(pairs, launch.block_n // (tokens * heads))
    return {"ROWS": pairs * tokens * heads, "PAIRS": pairs, "HEADS": heads, "SIZE": size, "UNIT_SIZE": unit_size}


@triton.jit
def block_of_row(table, row, block_count):
    """KV head of a row of inverse lists, and batch row and first position of its block."""
    block = table + row % block_count * BLOCK_WIDTH
    return (row // block_count).to(tl.int64), tl.load(block + ROW).to(tl.int64), tl.load(block + FIRST)


@triton.jit
def run_of_entries(rows, first, offsets, ROWS_END, SIZE: tl.constexpr, order=None):
    """This program's row of inverse lists, and the first and the end of its entries; none if there is no such run."""
    run = tl.program_id(0)
    row = tl.load(rows + run)
    there = row < ROWS_END
    passed = (run - tl.load(first + row)) * SIZE
    if order is not None:
        row = tl.load(order + row, there, other=0)
    start = tl.load(offsets + row) + passed
    return row, start, tl.where(there, tl.minimum(start + SIZE, tl.load(offsets + row + 1, there, other=0)), start)


@triton.jit
def pair_queries(
    entries,
    start,
    end,
    units,
    top_k,
    UNIT_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    PAIRS: tl.constexpr,
    HEADS: tl.constexpr,
):
    """A tile of queries: the pair, position, head and place in the unit of each, and whether there is such a query."""
    place = tl.arange(0, ROWS)
    entry = start + place // (ROWS // PAIRS)
    asks = entry < end
    pair = tl.load(entries + entry, asks, other=0)
    unit = units + pair // top_k * UNIT_WIDTH
    token = place // HEADS % (ROWS // PAIRS // HEADS)
    if UNIT_SIZE > 1:
        asks = asks & (token < tl.load(unit + TOKENS))
    return pair, tl.load(unit + FIRST) + token, place % HEADS, token, asks
