# SPDX-License-Identifier: Apache-2.0
"""Held-out clips dealt to processes, and read by workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hylora.training.evaluation import deal
from hylora.training.feed import Batch, Collate, Share, made_ahead
from vision_extras.clips.clip import ClipRows

__all__ = ["dealt"]


@dataclass(frozen=True)
class _Batches:
    """Batches by the numbers of their clips; ~number is one that counts for nothing."""

    rows: ClipRows
    collate: Collate
    shape: Any

    def __getitem__(self, numbers: Sequence[int]) -> Batch:
        clips = [self.rows[max(number, ~number)] for number in numbers]
        batch = self.collate(clips, [None] * len(clips), self.shape)
        return {**batch, "counted": torch.tensor([number >= 0 for number in numbers])}


def dealt(
    rows: ClipRows,
    collate: Collate,
    shape: Any,
    batch_size: int,
    share: Share,
    workers: int | None = None,
) -> Iterator[Batch]:
    """This process's batches of clips, as many as every other process has, with `counted`, [B] of bool.

    Args:
        rows: all clips; every process passes the same.
        collate: makes a batch of clips, without generators.
        shape: that it is given.
        batch_size: clips in a batch.
        share: which part is this process's.
        workers: processes that make batches ahead, as in `RowFeed`.
    """
    groups = deal(range(len(rows)), batch_size, share, lambda number: ~number)
    return made_ahead(_Batches(rows, collate, shape), list(groups), workers)
