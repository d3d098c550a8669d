# SPDX-License-Identifier: Apache-2.0
"""From who sees whom to the layout of sequences, by questions whose number grows with the length, not its square."""

from __future__ import annotations

from typing import Callable, Tuple

import torch
from torch import Tensor

from .layout import SequenceLayout


def find_boundaries(
    visible: Callable[[Tensor, Tensor, Tensor], Tensor], batch: int, length: int, device: torch.device
) -> Tuple[Tensor, Tensor]:
    """Where sequences start, and which tokens see just what a causal sequence shows.

    Args:
        visible: whether queries see keys, for a row `[B, 1]`, a query and a key `[B, L]`; the answer broadcasts.
        batch: number of rows.
        length: tokens per row.
        device: of what `visible` is given.

    Returns:
        Two tensors `[B, L]` bool.
    """
    rows = torch.arange(batch, device=device)[:, None]
    queries = torch.arange(length, device=device)[None, :].expand(batch, length)

    def sees(keys: Tensor) -> Tensor:
        return visible(rows, queries, keys.clamp(0, length - 1)).expand(batch, length)

    # A sequence starts where a token does not see the one before it.
    starts = ~sees(queries - 1)
    starts[:, 0] = True
    first = torch.where(starts, queries, 0).cummax(dim=1).values
    causal = ~sees(queries + 1) | (queries == length - 1)
    whole = sees(first) & sees(queries) & (~sees(first - 1) | (first == 0))
    return starts, causal & whole


def read_layout(starts: Tensor, real: Tensor, known: Tensor) -> SequenceLayout:
    """The layout that a mask shows.

    Args:
        starts: `[B, L]` bool, where a sequence starts.
        real: `[B, L]` bool, False at padding.
        known: `[B, L]` bool, whether the token sees what it must: its sequence up to itself.

    Returns:
        The layout.

    Raises:
        ValueError: a real token sees anything else, or padding lies inside a sequence.
    """
    if not bool((known | ~real).all()):
        raise ValueError(
            "unknown kind of mask: within a sequence every token must see all earlier tokens and no later ones "
            "(a sliding window, or attention in both directions?); use attn_implementation='sdpa' for this input"
        )
    return SequenceLayout.from_boundaries(starts, real)


def layout_of_mask(mask: Tensor, query: Tensor) -> SequenceLayout:
    """The layout that a mask of attention shows.

    Args:
        mask: `[B, 1, L, L]` bool, True where a query (row) sees a key (column).
        query: `[B, Hq, L, D]`.

    Returns:
        The layout.

    Raises:
        ValueError: the mask has another shape or dtype, or shows anything but causal sequences and padding.
    """
    batch, _, length, _ = query.shape
    if mask.dtype != torch.bool or mask.dim() != 4 or mask.shape[1:] != (1, length, length):
        raise ValueError(
            f"attention_mask {tuple(mask.shape)} of {mask.dtype} is not a boolean [batch, 1, {length}, {length}]; "
            "pass padding as a two-dimensional attention_mask, which transformers turns into one"
        )
    seen = mask[:, 0].expand(batch, length, length)
    starts, known = find_boundaries(lambda rows, queries, keys: seen[rows, queries, keys], batch, length, mask.device)
    # Padding sees nothing, or is seen by nobody behind it; a token by itself at the end of its row is real either way.
    return read_layout(starts, seen.diagonal(dim1=1, dim2=2), known)
