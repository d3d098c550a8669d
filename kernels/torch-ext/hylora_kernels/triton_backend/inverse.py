# SPDX-License-Identifier: Apache-2.0
"""Who chose each memory block: the units' choices, turned around."""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from .columns import UNIT_FIRST_BLOCK


class InverseLists(NamedTuple):
    """The entries that name each block, one list for each row: a KV head and a global block, blocks within heads.

    Attributes:
        offsets: `[Hkv * blocks + 1]` int32: where each row's list begins, and the end of the last.
        entries: `[Hkv * units * top_k]` int32: the lists one after the other, each ascending; an entry is
            `unit * top_k + slot`. What follows the last list has no meaning.
    """

    offsets: Tensor
    entries: Tensor


def inverse_lists(chosen: Tensor, units: Tensor, blocks: int) -> InverseLists:
    """Turn choices around.

    Shapes depend on those of the arguments alone, so nothing waits for the device, and the order is always the same:
    whoever adds up along a list gets the same bits again.

    Args:
        chosen: `[Hkv, units, top_k]` int32, blocks numbered from their sequence's start, -1 for none.
        units: their rows of the table.
        blocks: how many there are.

    Returns:
        The entries that name each block.
    """
    heads, _, top_k = chosen.shape
    rows = heads * blocks
    head = torch.arange(heads, dtype=torch.int32, device=chosen.device)[:, None, None]
    row = chosen + units[:, UNIT_FIRST_BLOCK.value, None] + head * blocks
    row = torch.where(chosen >= 0, row, rows).flatten()
    # Entries come ordered by head and unit, which a stable sort keeps within a row.
    row, entry = row.sort(stable=True)
    bounds = torch.arange(rows + 1, dtype=torch.int32, device=row.device)
    offsets = torch.searchsorted(row, bounds, out_int32=True)
    return InverseLists(offsets, (entry % max(1, len(units) * top_k)).to(torch.int32))


class Runs(NamedTuple):
    """The lists, cut into runs that are short enough for a program each.

    Attributes:
        rows: `[runs, or more]` int32: the row whose entries a run has, as a place in the order in which rows were cut;
            the number of rows where there is no run.
        first: `[rows + 1]` int32: each row's first run, in that order, and the end of the last's.
    """

    rows: Tensor
    first: Tensor


def longest_first(inverse: InverseLists) -> Tensor:
    """The rows `[rows]` int32 in the order of their lists' lengths, those of one length as they come."""
    return inverse.offsets.diff().argsort(descending=True, stable=True).to(torch.int32)


def cut_into_runs(inverse: InverseLists, size: int, order: Optional[Tensor] = None) -> Runs:
    """Runs of up to `size` entries of one list; again, shapes depend on those of the arguments alone.

    Args:
        inverse: the lists.
        size: of the longest run.
        order: `[rows]` integers, the order in which rows are cut; None means as they come.
    """
    lengths = inverse.offsets.diff()
    if order is not None:
        lengths = lengths[order]
    last = ((lengths + (size - 1)) // size).cumsum(0).to(torch.int32)
    # A list's last run may be short; no more lists have one than there are lists, or entries.
    entries = inverse.entries.shape[0]
    number = torch.arange(min(lengths.shape[0], entries) + entries // size, dtype=torch.int32, device=last.device)
    rows = torch.searchsorted(last, number, right=True, out_int32=True)
    return Runs(rows, torch.nn.functional.pad(last, (1, 0)))
