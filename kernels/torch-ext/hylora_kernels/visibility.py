# SPDX-License-Identifier: Apache-2.0
"""From who sees whom to the layout of sequences, by questions whose number grows with the length, not its square."""

from __future__ import annotations

from typing import Callable, Optional, Tuple

import torch
from torch import Tensor

from .layout import SequenceLayout


def find_boundaries(
    visible: Callable[[Tensor, Tensor, Tensor], Tensor],
    batch: int,
    length: int,
    device: torch.device,
    window: Optional[int] = None,
) -> Tuple[Tensor, Tensor]:
    """Where sequences start, and which tokens see just what a causal sequence shows, or a window of one.

    Args:
        visible: whether queries see keys, for a row `[B, 1]`, a query and a key `[B, L]`; the answer broadcasts.
        batch: number of rows.
        length: tokens per row.
        device: of what `visible` is given.
        window: tokens that a token sees, itself included; None means its whole sequence up to itself.

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
    if window is not None:
        first = torch.maximum(first, queries - window + 1)
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
            "(another window, or attention in both directions?); use attn_implementation='sdpa' for this input"
        )
    return SequenceLayout.from_boundaries(starts, real)


def layout_of_mask(mask: Tensor, query: Tensor, window: Optional[int] = None) -> SequenceLayout:
    """The layout that a mask of attention shows.

    Args:
        mask: `[B, 1, L, L]` bool, True where a query (row) sees a key (column).
        query: `[B, Hq, L, D]`.
        window: as in `find_boundaries`.

    Returns:
        The layout.

    Raises:
        ValueError: the mask has another shape or dtype, or shows anything but causal sequences and padding.
    """
    batch, _, length, _ = query.shape
    seen = _seen(mask, batch, length, length)

    def visible(rows: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        return seen[rows, queries, keys]

    starts, known = find_boundaries(visible, batch, length, mask.device, window)
    # Padding sees nothing, or is seen by nobody behind it; a token by itself at the end of its row is real either way.
    return read_layout(starts, seen.diagonal(dim1=1, dim2=2), known)


def layout_of_continuation(mask: Tensor, query: Tensor) -> SequenceLayout:
    """The sequences so far, one per row, of which these queries are the last tokens.

    Args:
        mask: `[B, 1, n, Lk]` bool, True where a query (row) sees a key (column).
        query: `[B, Hq, n, D]`, at the same positions in all rows; a row may have padding before its first token.

    Returns:
        The layout, as long as the last query's position.

    Raises:
        ValueError: the mask has another shape or dtype, or shows anything but causal sequences and padding.
    """
    batch, _, length, _ = query.shape
    seen = _seen(mask, batch, length, mask.shape[-1])
    keys = torch.arange(mask.shape[-1], device=mask.device)
    newest = keys.where(seen[:, -1], -1).amax()
    own = newest + 1 - length + torch.arange(length, device=mask.device)[:, None]
    first = seen[:, -1].int().argmax(dim=1)[:, None, None]
    real = own >= first
    if not bool(((seen == ((keys >= first) & (keys <= own))) | ~real).all()):
        raise ValueError(
            "unknown kind of mask: a query that continues a cache must see one run of keys up to its own, which is at "
            "the same position in all rows; pad on the left, or use attn_implementation='sdpa' for this input"
        )
    end = int(newest) + 1
    return SequenceLayout(batch, end, tuple((row, at, end - at) for row, at in enumerate(first.flatten().tolist())))


def _seen(mask: Tensor, batch: int, queries: int, keys: int) -> Tensor:
    if mask.dtype != torch.bool or mask.dim() != 4 or mask.shape[1:] != (1, queries, keys):
        raise ValueError(
            f"attention_mask {tuple(mask.shape)} of {mask.dtype} is not a boolean [batch, 1, {queries}, {keys}]; "
            "pass padding as a two-dimensional attention_mask, which transformers turns into one"
        )
    return mask[:, 0].expand(batch, queries, keys)
