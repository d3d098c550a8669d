# SPDX-License-Identifier: Apache-2.0
"""Held-out images dealt to processes, and read by workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hylora.training.evaluation import deal
from hylora.training.feed import Batch, Share, made_ahead
from vision_extras.images.collate import Resized
from vision_extras.images.data import IGNORED, Row, Rows

__all__ = ["dealt"]


@dataclass(frozen=True)
class _Batches:
    """Batches by the numbers of their rows; ~number is a row that counts for nothing."""

    rows: Rows
    plain: Resized
    shape: tuple[int, int]

    def __getitem__(self, numbers: Sequence[int]) -> Batch:
        return self.plain([self._row(number) for number in numbers], [None] * len(numbers), self.shape)

    def _row(self, number: int) -> Row:
        return self.rows[number] if number >= 0 else (self.rows[~number][0], IGNORED)


def dealt(
    rows: Rows, plain: Resized, shape: tuple[int, int], batch_size: int, share: Share, workers: int | None = None
) -> Iterator[Batch]:
    """This process's batches of images, as many as every other process has.

    Args:
        rows: all images; every process passes the same.
        plain: makes a batch of rows.
        shape: height and width of the batches.
        batch_size: images in a batch.
        share: which part is this process's.
        workers: processes that make batches ahead, as in `RowFeed`.
    """
    groups = deal(range(len(rows)), batch_size, share, lambda number: ~number)
    return made_ahead(_Batches(rows, plain, shape), list(groups), workers)
