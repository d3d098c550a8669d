# SPDX-License-Identifier: Apache-2.0
"""What a classifier says of held-out clips, which are dealt to processes, and gathered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from hylora.training.evaluation import deal
from hylora.training.feed import Batch, Collate, made_ahead
from hylora.training.processes import share_of

__all__ = ["SoundEvaluation"]


@dataclass(frozen=True)
class _Numbered:
    """Batches by the numbers of their rows, which come along; ~number is a row that counts for nothing."""

    rows: Any
    plain: Collate
    shape: tuple[int, int]

    def __getitem__(self, numbers: list[int]) -> Batch:
        rows = [self.rows[number if number >= 0 else ~number] for number in numbers]
        return {**self.plain(rows, [None] * len(rows), self.shape), "numbers": torch.tensor(numbers)}


@dataclass(frozen=True)
class SoundEvaluation:
    """Looks at all of some clips once; every process must call the same.

    Args:
        clips: to evaluate on, at least one.
        plain: makes batches of them.
        shape: (steps, bands) of spectrograms.
        batch_size: clips per process and forward pass.
        workers: processes that make batches ahead, as in `RowFeed`.
    """

    clips: Any
    plain: Collate
    shape: tuple[int, int]
    batch_size: int
    workers: int | None = None

    def predictions(
        self, model: nn.Module, accelerator: Accelerator, check_stop: Callable[[], Any]
    ) -> tuple[Tensor, Tensor]:
        """What a model says of each clip, in their order: the same in every process.

        Args:
            model: from spectrograms [B, T, bands] to logits [B, K], as the accelerator prepared it, in evaluation
                mode.
            accelerator: of the run.
            check_stop: called before each batch.

        Returns:
            Logits, [N, K] in float32, and labels, [N] in int64 or [N, K] in float32.
        """
        numbers = range(len(self.clips))
        groups = list(deal(numbers, self.batch_size, share_of(accelerator), lambda number: ~number))
        seen: list[tuple[Tensor, ...]] = []
        for batch in made_ahead(_Numbered(self.clips, self.plain, self.shape), groups, self.workers):
            check_stop()
            with torch.no_grad():
                logits = model(batch["input_values"].to(accelerator.device)).float().cpu()
            counted = batch["numbers"] >= 0
            seen.append(tuple(value[counted] for value in (batch["numbers"], logits, batch["labels"])))
        places, logits, labels = (torch.cat(parts) for parts in zip(*gather_object(seen), strict=True))
        order = places.argsort()
        return logits[order], labels[order]
