# SPDX-License-Identifier: Apache-2.0
"""Which tokens of a batch form which sequence."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor


class Segment(NamedTuple):
    """Neighbouring rows that each hold a sequence at the same place."""

    rows: slice
    start: int
    length: int


@dataclass(frozen=True)
class SequenceLayout:
    """The sequences in a `[batch, length]` grid of tokens.

    Positions outside every sequence are padding. Attention never crosses a sequence's boundary, and its grids of
    chunks and blocks start at the sequence's own first token. The object holds Python integers only: build it once
    per forward pass and hand it to every layer.

    Args:
        batch: number of rows.
        length: tokens per row, padding included.
        sequences: `(row, start, length)` of each sequence, sorted, without overlap; each at least one token long.

    Raises:
        ValueError: a sequence is empty, leaves the grid, or overlaps or precedes the one before it.
    """

    batch: int
    length: int
    sequences: Tuple[Tuple[int, int, int], ...]

    def __post_init__(self):
        free = (0, 0)  # first position after the sequences seen so far
        for row, start, length in self.sequences:
            if length < 1 or not 0 <= row < self.batch or start < 0 or start + length > self.length:
                raise ValueError(
                    f"sequence (row={row}, start={start}, length={length}) does not fit a batch of {self.batch} rows "
                    f"of {self.length} tokens; every sequence needs at least one token inside its row"
                )
            if (row, start) < free:
                raise ValueError(
                    f"sequence (row={row}, start={start}) overlaps or precedes the one before it; "
                    "sort sequences by (row, start)"
                )
            free = (row, start + length)

    @classmethod
    def dense(cls, batch: int, length: int) -> SequenceLayout:
        """Every row is one sequence without padding.

        Args:
            batch: number of rows.
            length: tokens per row.

        Returns:
            The layout.
        """
        return cls(batch, length, tuple((row, 0, length) for row in range(batch) if length > 0))

    @classmethod
    def from_padding_mask(cls, mask: Tensor) -> SequenceLayout:
        """One sequence per row, padded left, right, on both sides or not at all.

        Args:
            mask: `[batch, length]`, bool or integer; nonzero where the token is real. Rows may be all padding.

        Returns:
            The layout.

        Raises:
            ValueError: the mask is not two-dimensional, or a row's real tokens are not one contiguous run.
        """
        return cls.from_boundaries(torch.zeros_like(mask, dtype=torch.bool), mask)

    @classmethod
    def from_boundaries(cls, starts: Tensor, mask: Optional[Tensor] = None) -> SequenceLayout:
        """Packed rows: several sequences one after the other.

        Args:
            starts: `[batch, length]` bool; True at the first token of each sequence. A row's first real token starts
                a sequence whether marked or not. With position ids: `starts = position_ids == 0`.
            mask: padding mask as in `from_padding_mask`; None means no padding.

        Returns:
            The layout.

        Raises:
            ValueError: wrong shapes, or a row's real tokens are not one contiguous run.
        """
        if mask is None:
            mask = torch.ones_like(starts, dtype=torch.bool)
        if mask.dim() != 2 or mask.shape != starts.shape:
            raise ValueError(
                f"expected mask and boundaries of one shape [batch, length], got {tuple(mask.shape)} "
                f"and {tuple(starts.shape)}"
            )
        real = mask.bool().cpu()
        before = torch.nn.functional.pad(real, (1, -1))  # whether the token before is real
        gaps = ((real & ~before).sum(dim=1) > 1).nonzero().flatten().tolist()
        if gaps:
            raise ValueError(
                f"padding mask row {gaps[0]} has a gap between real tokens; "
                "padding must lie before or after one contiguous run of real tokens"
            )
        begins = real & (starts.bool().cpu() | ~before)
        # Counted among the real tokens alone, a sequence ends where the next one begins.
        bounds = [*begins[real].nonzero().flatten().tolist(), int(real.sum())]
        firsts = begins.nonzero().tolist()
        sequences = tuple((row, start, end - at) for (row, start), at, end in zip(firsts, bounds, bounds[1:]))
        return cls(*mask.shape, sequences)

    @classmethod
    def from_cu_seqlens(cls, cu_seqlens: Union[Tensor, Sequence[int]], length: Optional[int] = None) -> SequenceLayout:
        """A single packed row described by cumulative sequence lengths.

        Args:
            cu_seqlens: `[sequences + 1]` integers `[0, n1, n1 + n2, ...]`; empty sequences are dropped.
            length: tokens in the row; the rest is padding. None means the last entry of `cu_seqlens`.

        Returns:
            The layout, with a batch of one.

        Raises:
            ValueError: `cu_seqlens` does not start at 0, decreases, or exceeds `length`.
        """
        bounds = torch.as_tensor(cu_seqlens).tolist()
        if not isinstance(bounds, list) or not bounds or bounds[0] != 0 or sorted(bounds) != bounds:
            raise ValueError(f"cu_seqlens must be a list that starts at 0 and never decreases, got {bounds}")
        pairs = zip(bounds, bounds[1:])
        sequences = tuple((0, left, right - left) for left, right in pairs if right > left)
        return cls(1, bounds[-1] if length is None else length, sequences)

    @classmethod
    def of(cls, query: Tensor, layout: Union[SequenceLayout, Tensor, None]) -> SequenceLayout:
        """The layout of a query in any of the forms that the attention functions take.

        Args:
            query: `[B, Hq, L, D]`.
            layout: a layout; its `table()`; or None, where every row is one sequence.

        Returns:
            The layout.

        Raises:
            ValueError: the table's sequences do not fit the query.
        """
        if isinstance(layout, SequenceLayout):
            return layout
        batch, _, length, _ = query.shape
        if layout is None:
            return cls.dense(batch, length)
        return cls(batch, length, tuple(map(tuple, layout.tolist())))

    def table(self) -> Tensor:
        """The sequences as a tensor, which a compiled graph can compute.

        Returns:
            `[sequences, 3]` int64 on the CPU, rows (row, start, length).
        """
        return torch.tensor(self.sequences, dtype=torch.int64).reshape(-1, 3)

    @property
    def is_dense(self) -> bool:
        """Whether every row is one sequence without padding."""
        return self.sequences == SequenceLayout.dense(self.batch, self.length).sequences

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, 0 where all is padding."""
        return max((length for _, _, length in self.sequences), default=0)

    def segments(self) -> Tuple[Segment, ...]:
        """The sequences, with neighbouring rows that are cut alike taken together.

        Returns:
            Segments that cover every sequence once. A dense layout is a single segment.
        """
        cuts = {row: [] for row in range(self.batch)}
        for row, start, length in self.sequences:
            cuts[row].append((start, length))
        segments = []
        for cut, rows in groupby(cuts, key=cuts.__getitem__):
            rows = list(rows)
            segments += [Segment(slice(rows[0], rows[-1] + 1), start, length) for start, length in cut]
        return tuple(segments)
