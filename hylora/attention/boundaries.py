# SPDX-License-Identifier: Apache-2.0
"""From tensors that tell where sequences begin to a layout: outside of a compiled graph, and as operators inside one.

A graph may not depend on values. There a layout is the table of its sequences, computed by an operator that torch does
not look into, and so are the checks.
"""

from __future__ import annotations

import torch

from hylora_kernels import SequenceLayout
from hylora_kernels.visibility import read_layout

__all__ = ["checked_table", "compare_positions", "is_packed", "read_table"]


def is_packed(layout: SequenceLayout) -> bool:
    """Whether several sequences share a row."""
    return len({row for row, _, _ in layout.sequences}) < len(layout.sequences)


def compare_positions(layout: SequenceLayout, position_ids: torch.Tensor | None) -> None:
    """Refuse positions that restart inside a sequence of the layout.

    Args:
        layout: of the sequences.
        position_ids: [B or 1, L]; anything else is not looked at.

    Raises:
        ValueError: as said.
    """
    # Positions of other shapes belong to images and video, or to another length than this call's.
    if position_ids is None or position_ids.ndim != 2 or position_ids.shape[1] != layout.length:
        return
    jumps = (position_ids.diff(dim=1) != 1).cpu()
    for row, start, length in layout.sequences:
        if jumps[row % jumps.shape[0], start : start + length - 1].any():
            raise ValueError(
                f"position_ids of row {row} restart inside what the mask calls one sequence; pass "
                "use_cache=False and no attention_mask with packed input, so that the boundaries are found (and "
                "seq_idx to models that show their positions to no mask)"
            )


@torch.library.custom_op(
    "hylora::read_table", mutates_args=(), schema="(Tensor starts, Tensor real, Tensor known) -> Tensor"
)
def read_table(starts, real, known):
    """`read_layout` inside a graph: the table of the layout."""
    return read_layout(starts, real, known).table()


@read_table.register_fake
def _(starts, real, known):
    return torch.empty(torch.library.get_ctx().new_dynamic_size(), 3, dtype=torch.int64)


@torch.library.custom_op(
    "hylora::checked_table",
    mutates_args=(),
    schema="(Tensor table, SymInt batch, SymInt length, Tensor? position_ids, str no_packing) -> Tensor",
)
def checked_table(table, batch, length, position_ids, no_packing):
    """The same table, after the checks: packing is refused if `no_packing` says why, and positions are compared.

    Without anything returned, a graph would leave the checks out.
    """
    layout = SequenceLayout(batch, length, tuple(map(tuple, table.tolist())))
    if no_packing and is_packed(layout):
        raise ValueError(no_packing)
    compare_positions(layout, position_ids)
    return table.clone()


@checked_table.register_fake
def _(table, batch, length, position_ids, no_packing):
    return torch.empty_like(table)
