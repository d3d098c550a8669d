# SPDX-License-Identifier: Apache-2.0
"""What the loop needs to know of what it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from torch import Tensor, nn

__all__ = ["Batch", "Task"]

Batch = Mapping[str, Tensor]


class Task(Protocol):
    """A model, its data and its loss.

    Attributes:
        model: called with a batch as keyword arguments, gives `(loss_sum, count)`: a scalar loss summed over `count`
            terms. The loop divides by the terms of the whole update, so that each weighs the same however they are
            spread over micro-batches and processes.
        rows: the training data, either map-style (`__len__` and `__getitem__`) or a stream (`state_dict` and
            `load_state_dict`).
        unit: what `count` counts, for display.
    """

    model: nn.Module
    rows: Any
    unit: str

    def collate(self, rows: Sequence[Any]) -> Batch:
        """Make a batch of rows."""

    def count(self, batch: Batch) -> int:
        """The terms that the batch's loss sums over, known without running the model."""

    def evaluate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """Metrics on held-out data; empty where there is none.

        Args:
            model: the task's model as the accelerator prepared it, in evaluation mode. Every process calls this.
            accelerator: to spread batches over processes and to sum over them.
        """

    def save(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """Write the trained artefact; called on the main process alone.

        Args:
            folder: an empty folder.
            state: the model's gathered state where its parameters are sharded over processes, else None.
        """
