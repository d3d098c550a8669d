# SPDX-License-Identifier: Apache-2.0
"""Which columns of a batch of tokens are padding, while the batch grows to the right."""

from __future__ import annotations

from collections.abc import Iterable

from hylora_kernels import SequenceLayout

__all__ = ["Columns"]


class Columns:
    """The runs of real tokens in each row of a grid that grows.

    transformers counts columns, padding included; what a cache holds are real tokens alone.

    Attributes:
        length: columns so far.
    """

    def __init__(self, batch: int) -> None:
        self.length = 0
        self._runs: list[list[tuple[int, int]]] = [[] for _ in range(batch)]

    def append(self, layout: SequenceLayout) -> None:
        """Add the columns of a layout of the same rows, on the right."""
        for row, start, length in layout.sequences:
            runs, begin = self._runs[row], self.length + start
            if runs and runs[-1][1] == begin:
                begin, _ = runs.pop()
            runs.append((begin, self.length + start + length))
        self.length += layout.length

    def real(self, columns: int) -> list[int]:
        """How many real tokens each row has in so many columns from the left."""
        return [sum(max(0, min(end, columns) - start) for start, end in runs) for runs in self._runs]

    def gap(self, layout: SequenceLayout) -> int | None:
        """The first row that would get padding between its tokens with these columns, None if there is none."""
        split = (
            row
            for row, start, _ in layout.sequences
            if self.length and self._runs[row] and self._runs[row][-1][1] < self.length + start
        )
        return next(split, None)

    def crop(self, columns: int) -> None:
        """Keep so many columns from the left."""
        self.length = columns
        self._runs = [[(start, min(end, columns)) for start, end in runs if start < columns] for runs in self._runs]

    def take(self, rows: Iterable[int]) -> None:
        """Put these rows in the place of all."""
        self._runs = [list(self._runs[row]) for row in rows]
