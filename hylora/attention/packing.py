# SPDX-License-Identifier: Apache-2.0
"""Packed rows: whatever marks their boundaries must agree, and the whole model must respect them."""

from __future__ import annotations

from typing import Any

import torch

from hylora.architecture import is_recurrent
from hylora.attention.boundaries import checked_table, compare_positions, is_packed
from hylora.attention.masks import Prefill
from hylora.recurrence import boundary_arguments, deaf_packages
from hylora_kernels import SequenceLayout

__all__ = ["settle_packing"]


def settle_packing(
    name: str, config: Any, query: torch.Tensor, prefill: Prefill, arguments: dict[str, Any]
) -> SequenceLayout | torch.Tensor:
    """Read the boundaries that came past the mask, and refuse those that contradict it or that the model would ignore.

    Args:
        name: of the attention, for messages.
        config: of the model.
        query: [B, Hq, L, D].
        prefill: what the mask showed. `seq_idx` may divide its layout further: some models show their positions
            neither to the mask nor to attention.
        arguments: what the attention function was called with beside its tensors.

    Returns:
        The layout; inside a compiled graph, the table of its sequences.

    Raises:
        ValueError: if `position_ids`, `seq_idx` and `cu_seq_lens_q` mark different boundaries, or if several
            sequences are packed in one row and recurrent layers would carry state from one to the next.
    """
    if torch.compiler.is_compiling():
        return _settle_in_graph(config, query, prefill, arguments)
    if prefill.packing_settled:
        return prefill.layout
    prefill.layout = SequenceLayout.of(query, prefill.layout)  # a graph that broke off here made a table
    if arguments.get("seq_idx") is not None:
        prefill.layout = _divide(prefill.layout, arguments["seq_idx"])
    layout = prefill.layout
    if is_packed(layout) and (reason := _why_no_packing(config, arguments)):
        raise ValueError(reason)
    _compare_lengths(name, layout, arguments.get("cu_seq_lens_q"))
    compare_positions(layout, arguments.get("position_ids"))
    prefill.packing_settled = True
    return layout


def _settle_in_graph(config: Any, query: torch.Tensor, prefill: Prefill, arguments: dict[str, Any]) -> torch.Tensor:
    for told in ("seq_idx", "cu_seq_lens_q"):
        if arguments.get(told) is not None:
            raise ValueError(
                f"{told} is not read inside a compiled graph; pass position_ids that restart with each sequence, or "
                "compile without fullgraph=True"
            )
    layout = prefill.layout
    table = layout.table() if isinstance(layout, SequenceLayout) else layout
    no_packing = _why_no_packing(config, arguments)
    position_ids = None if prefill.positions_shown else arguments.get("position_ids")
    if position_ids is None and not no_packing:
        return table
    batch, _, length, _ = query.shape
    return checked_table(table, batch, length, position_ids, no_packing)


def _divide(layout: SequenceLayout, seq_idx: torch.Tensor) -> SequenceLayout:
    if tuple(seq_idx.shape) != (layout.batch, layout.length):
        raise ValueError(
            f"seq_idx has shape {tuple(seq_idx.shape)}; pass the number of each token's sequence as "
            f"[{layout.batch}, {layout.length}]"
        )
    starts = torch.ones_like(seq_idx, dtype=torch.bool)
    starts[:, 1:] = seq_idx.diff(dim=1) != 0
    real = torch.zeros_like(starts)
    for row, start, length in layout.sequences:
        starts[row, start] = True
        real[row, start : start + length] = True
    return SequenceLayout.from_boundaries(starts, real)


def _why_no_packing(config: Any, arguments: dict[str, Any]) -> str:
    """Why several sequences must not share a row, or nothing if they may."""
    if not is_recurrent(config):
        return ""
    model_type, names = config.model_type, boundary_arguments(config)
    if not names:
        cause = f"nothing tells the recurrent layers of {model_type!r} of boundaries"
    elif any(arguments.get(name) is None for name in names):
        cause = f"the recurrent layers of {model_type!r} are told of boundaries by {' and '.join(names)}"
    elif deaf := deaf_packages(config):
        cause = f"the recurrent layers of {model_type!r} need the kernels of {' and '.join(deaf)} to keep them apart"
    else:
        return ""
    return (
        "several sequences are packed in one row, and recurrent layers would carry state from one to the next "
        f"({cause}); pack without boundaries (end-of-sequence tokens only), or give each sequence its own row"
    )


def _compare_lengths(name: str, layout: SequenceLayout, boundaries: torch.Tensor | None) -> None:
    if boundaries is not None and SequenceLayout.from_cu_seqlens(boundaries, layout.length) != layout:
        raise ValueError(
            f"cu_seq_lens_q={boundaries.tolist()} marks other boundaries than position_ids do; pass position_ids "
            f"that restart with each sequence, use_cache=False and no attention_mask: {name} reads boundaries there"
        )
