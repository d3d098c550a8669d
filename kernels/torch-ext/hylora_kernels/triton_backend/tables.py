# SPDX-License-Identifier: Apache-2.0
"""Where the kernels find blocks, units, readers and chunks: one row of integers for each.

The tables are the same for every layer of a forward pass, so that kernels know nothing of padding and packing: a dense
batch, a padded one and packed rows differ in their tables alone.
"""

from __future__ import annotations

from typing import List, NamedTuple

import torch
from torch import Tensor

from ..cached import cached_tables
from ..layout import SequenceLayout
from ..options import SpanOptions

# Units of so many tokens fill a tile of queries, which reads their blocks one after the other. The queries of smaller
# ones are collected by the blocks that they chose.
_TILE_TOKENS = 32


class SpanTables(NamedTuple):
    """Integer tables (int32, one row per item, all sequences one after the other) of a layout under some options.

    Blocks are numbered through all sequences ("global") or from their sequence's start ("local"). Positions are those
    of the `[batch, length]` grid.

    Attributes:
        blocks: `[blocks, 3]`: row, first position, tokens. The last block of a sequence may be shorter than the rest;
            no unit has it among its candidates.
        units: `[units, 6]`: row, first position, tokens, unit whose queries choose for it (-1: none, no candidates),
            first global block of its sequence, number of candidates.
        readers: `[readers, 5]`: row, first position, tokens, first position of their chunk, first position of their
            sequence. A reader is a run of neighbouring queries of a chunk: a unit, in whose order they come, or the
            chunk where units are small.
        chunks: `[chunks, 3]`: row, first position, tokens.
        shared: whether readers are units, so that all queries of a reader read the same blocks.
        reader_size: tokens in the longest reader.
        unit_size: tokens in the longest unit.
        covered: whether every position of the grid belongs to a sequence.
        chunk_size: tokens in the longest chunk.
    """

    blocks: Tensor
    units: Tensor
    readers: Tensor
    chunks: Tensor
    shared: bool
    reader_size: int
    unit_size: int
    covered: bool
    chunk_size: int


def span_tables(layout: SequenceLayout, options: SpanOptions, device: torch.device) -> SpanTables:
    """The tables of a layout; those of the last few layouts are kept, since all layers ask for the same."""
    sizes = (options.block_size, options.chunk_size, options.unit_size)
    return _tables(layout, *sizes, options.chooses_for_next, device)


def reader_lists(chosen: Tensor, tables: SpanTables) -> Tensor:
    """`[Hkv, readers, blocks]` that each reader reads by itself: none where units are smaller than readers."""
    return chosen.contiguous() if tables.shared else chosen[:, :, :0]


@cached_tables
def _tables(
    layout: SequenceLayout,
    block_size: int,
    chunk_size: int,
    unit_size: int,
    chooses_for_next: bool,
    device: torch.device,
) -> SpanTables:
    shared = unit_size >= min(_TILE_TOKENS, chunk_size)
    blocks, units, readers, chunks = [], [], [], []
    block_base = unit_base = 0
    for row, start, length in layout.sequences:
        sequence_blocks = _cut(row, start, length, block_size)
        sequence_chunks = _cut(row, start, length, chunk_size)
        first, tokens = _runs(length, unit_size)
        unit = torch.arange(len(first))
        source = unit_base + unit
        if chooses_for_next:
            source = torch.where(unit > 0, source - 1, -1)
        candidates = first // chunk_size * chunk_size // block_size
        sequence_units = _columns(row, start + first, tokens, source, block_base, candidates)

        if not shared:
            first, tokens = _runs(length, chunk_size)
        chunk_start = start + first // chunk_size * chunk_size
        readers.append(_columns(row, start + first, tokens, chunk_start, start))
        blocks.append(sequence_blocks)
        units.append(sequence_units)
        chunks.append(sequence_chunks)
        block_base += len(sequence_blocks)
        unit_base += len(sequence_units)
    covered = sum(length for _, _, length in layout.sequences) == layout.batch * layout.length
    longest_chunk = min(chunk_size, layout.longest)
    longest_unit = min(unit_size, layout.longest)
    moved = (_stack(*pair).to(device) for pair in ((blocks, 3), (units, 6), (readers, 5), (chunks, 3)))
    return SpanTables(*moved, shared, longest_unit if shared else longest_chunk, longest_unit, covered, longest_chunk)


def _runs(length: int, size: int):
    """First offsets and lengths of the runs into which a length is cut."""
    first = torch.arange(0, length, size)
    return first, (length - first).clamp(max=size)


def _cut(row: int, start: int, length: int, size: int) -> Tensor:
    first, tokens = _runs(length, size)
    return _columns(row, start + first, tokens)


def _columns(*columns) -> Tensor:
    count = next(len(column) for column in columns if isinstance(column, Tensor))
    filled = [c if isinstance(c, Tensor) else torch.full((count,), c) for c in columns]
    return torch.stack(filled, dim=1).to(torch.int32)


def _stack(tables: List[Tensor], width: int) -> Tensor:
    return torch.cat(tables) if tables else torch.zeros(0, width, dtype=torch.int32)
