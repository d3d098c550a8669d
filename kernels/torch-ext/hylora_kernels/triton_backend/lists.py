# SPDX-License-Identifier: Apache-2.0
"""Which memory blocks each reader reads: its unit's choice, or the union of the choices of its queries."""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from ..options import SpanOptions
from .columns import FIRST, FIRST_UNIT, SEQUENCE_START, TOKENS
from .tables import ROWS_PER_MASK, SpanTables

_SLOT_BITS = ROWS_PER_MASK.bit_length() - 1  # a reader's units are numbered within as many bits as its rows
_SLICE = 1 << 24  # temporaries hold about this many numbers: with a choice per query lists get long


class ReadingLists(NamedTuple):
    """One list of memory blocks for each KV head and reader, contiguous in memory.

    Attributes:
        blocks: `[Hkv, readers, capacity]` int32, numbered from the sequence's start; -1 fills up the end.
        masks: `[Hkv, readers, capacity]` int64, bit i set where the reader's i-th query reads the block, 0 where there
            is no block; None where all queries of a reader read all its blocks.
    """

    blocks: Tensor
    masks: Optional[Tensor]


def reading_lists(blocks: Tensor, tables: SpanTables, options: SpanOptions) -> ReadingLists:
    """The lists that follow from the units' choices.

    Shapes depend on the options and the tables' sizes alone, so nothing waits for the device.

    Args:
        blocks: `[Hkv, units, top_k]` int32, numbered from the sequence's start, -1 at the end.
        tables: those of the layout and the options.
        options: what was chosen and for whom.

    Returns:
        The units' own rows (no copy if contiguous) where readers are units; otherwise each reader's union, in
        ascending order.
    """
    if tables.shared:
        return ReadingLists(blocks.contiguous() if options.retrieves else blocks[:, :, :0], None)
    heads, readers = blocks.shape[0], tables.readers.shape[0]
    slots = _units_per_reader(options)
    capacity = min(slots * blocks.shape[2], tables.blocks.shape[0]) if options.retrieves else 0
    union = blocks.new_empty(heads, readers, capacity)
    masks = torch.empty(heads, readers, capacity, dtype=torch.int64, device=blocks.device)
    if union.numel():
        units, members = _units_of_readers(tables, options.unit_size, slots)
        step = max(1, _SLICE // (readers * slots * blocks.shape[2]))
        for first in range(0, heads, step):
            at = slice(first, first + step)
            union[at], masks[at] = _unite(blocks[at, units], members, capacity)
    return ReadingLists(union, masks)


def _units_per_reader(options: SpanOptions) -> int:
    """The most units that a reader can touch. Readers and units both start anew with each chunk."""
    rows, unit = min(ROWS_PER_MASK, options.chunk_size), options.unit_size
    return rows // unit if rows % unit == 0 else (rows - 2) // unit + 2


def _units_of_readers(tables: SpanTables, unit_size: int, slots: int):
    """Number of each reader's units `[readers, slots]`, and which of its rows belong to them, as bits of an int64."""
    named = (FIRST, TOKENS, SEQUENCE_START, FIRST_UNIT)
    first, tokens, origin, first_unit = (tables.readers[:, column.value, None].long() for column in named)
    slot = torch.arange(slots, device=first.device)
    begin = slot * unit_size - (first - origin) % unit_size
    members = _bits_below(torch.minimum(begin + unit_size, tokens)) & ~_bits_below(begin)
    return (first_unit + slot).clamp(max=tables.units.shape[0] - 1), members


def _bits_below(count: Tensor) -> Tensor:
    """int64 with the lowest `count` bits set."""
    return torch.where(count < 64, (1 << count.clamp(0, 63)) - 1, -1)


def _unite(chosen: Tensor, members: Tensor, capacity: int):
    """Unions of `chosen` `[heads, readers, slots, top_k]` in ascending order, and their masks."""
    # Sorting (block, slot) packed into one number brings the occurrences of each block together.
    nothing = torch.iinfo(torch.int32).max
    slot = torch.arange(chosen.shape[2], dtype=torch.int32, device=chosen.device)[:, None]
    present = (chosen >= 0) & (members != 0)[..., None]
    packed = torch.where(present, (chosen << _SLOT_BITS) + slot, nothing).flatten(2).sort(dim=-1).values
    present = packed != nothing
    block = torch.where(present, packed >> _SLOT_BITS, -1)

    # A block's occurrences belong to different rows: the bitwise or is a sum, a difference of running sums (mod 2^64).
    slot = (packed & (ROWS_PER_MASK - 1)).long().clamp(max=members.shape[1] - 1)
    bits = members.expand(len(chosen), -1, -1).gather(2, slot).masked_fill_(~present, 0)
    before = torch.nn.functional.pad(bits.cumsum(dim=-1), (1, 0))

    opens = present & torch.cat([present[..., :1], block[..., 1:] != block[..., :-1]], dim=-1)
    ranks = torch.arange(1, capacity + 2, device=chosen.device).expand(*opens.shape[:2], -1).contiguous()
    place = torch.searchsorted(opens.cumsum(dim=-1), ranks)  # of each block's first occurrence; the end after the last
    union = torch.nn.functional.pad(block, (0, 1), value=-1).gather(2, place[..., :-1])
    return union, before.gather(2, place).diff(dim=-1)
