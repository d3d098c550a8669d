# SPDX-License-Identifier: Apache-2.0
"""Who reads each memory block: the lists of the readers, turned around."""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from .columns import READER_FIRST_BLOCK
from .lists import ReadingLists
from .tables import SpanTables


class InverseLists(NamedTuple):
    """The readers of each block, one list for each row: a KV head and a global block, blocks within heads.

    Attributes:
        offsets: `[Hkv * blocks + 1]` int32: where each row's list begins, and the end of the last.
        readers: `[Hkv * readers * capacity]` int32: the lists one after the other, each ascending; what follows the
            last list has no meaning.
        masks: the same shape, int64, bit i set where the reader's i-th query reads the block; None where all do.
        order: `[Hkv * blocks]` int32: the rows, those with the longest lists first.
    """

    offsets: Tensor
    readers: Tensor
    masks: Optional[Tensor]
    order: Tensor


def inverse_lists(lists: ReadingLists, tables: SpanTables) -> InverseLists:
    """Turn the readers' lists around.

    Shapes depend on those of the arguments alone, so nothing waits for the device, and the order is always the same:
    whoever adds up along a list gets the same bits again.

    Args:
        lists: the blocks that each reader reads.
        tables: those of the layout.

    Returns:
        The readers that each block has.
    """
    heads, readers, capacity = lists.blocks.shape
    rows = heads * tables.blocks.shape[0]
    head = torch.arange(heads, dtype=torch.int32, device=lists.blocks.device)[:, None, None]
    row = lists.blocks + tables.readers[:, READER_FIRST_BLOCK.value, None] + head * tables.blocks.shape[0]
    row = torch.where(lists.blocks >= 0, row, rows).flatten()
    # Entries come ordered by head and reader, which a stable sort keeps within a row.
    row, entry = row.sort(stable=True)
    bounds = torch.arange(rows + 1, dtype=torch.int32, device=row.device)
    offsets = torch.searchsorted(row, bounds, out_int32=True)
    order = offsets.diff().argsort(descending=True, stable=True).to(torch.int32)
    reader = (entry // max(capacity, 1) % max(readers, 1)).to(torch.int32)
    return InverseLists(offsets, reader, None if lists.masks is None else lists.masks.flatten()[entry], order)
