# SPDX-License-Identifier: Apache-2.0
"""What is trained, as the loop sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from hylora.training.feed import Batch, Feed
from hylora.training.moment import Moment
from hylora.training.optimizer import trainable

__all__ = ["Task"]


class Task:
    """A model, its data and its loss, and what happens to them in the course of training.

    For each update the loop calls `begin`, `feed.window`, `gradients`, and `end` after the optimizer's step. What a
    task schedules or draws must be a function of the moment (`Moment.progress`, `Moment.generator`) and of the
    model's state, so that a resumed run is the run that was not interrupted.

    Attributes:
        model: called with a batch as keyword arguments, gives `(loss_sum, count)`: a scalar loss summed over `count`
            terms. The loop divides by the terms of the whole update, so that each weighs the same however they are
            spread over micro-batches and processes.
        feed: where the batches come from.
        unit: what `count` counts, for display.
        last_file: of the files that `save` writes, the one that appears in the run's folder after all others.
    """

    model: nn.Module
    feed: Feed
    unit: str = "rows"
    last_file: str = ""

    def count(self, batch: Batch) -> int:
        """The terms that the batch's loss sums over, known without running the model."""
        raise NotImplementedError

    def begin(self, moment: Moment) -> bool:
        """Prepare an update: set resolution, sparsity, phase or depth.

        It may be called again at the same moment, and when a run is resumed it is called on the model as it was built,
        before the checkpoint is loaded: what it does to the model's structure must follow from the moment alone.

        Returns:
            Whether parameters were added, replaced, removed, frozen or thawed, or forward passes will change other
            buffers than before. The loop then builds the optimizer anew and carries the state of every parameter that
            kept its name and shape.
        """
        return False

    def gradients(self, accumulate: Callable[[], Tensor]) -> Tensor:
        """Leave the update's gradients in the parameters.

        Args:
            accumulate: runs the window forward and backward, adding to the gradients, and gives this process's summed
                loss. Methods that look at the loss elsewhere too (SAM, CrAM) call it several times. The first call
                may end the run by an exception: change no weight before it.

        Returns:
            The summed loss to report.
        """
        return accumulate()

    def end(self, moment: Moment) -> None:
        """Finish an update, after the optimizer's step: put masks back on, for example."""

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """The optimizer's parameter groups, as torch takes them; by default one with everything that is trained.

        A group's own "lr" is followed by the schedule as the recipe's is.

        Args:
            weight_decay: the recipe's.
        """
        return [{"params": list(trainable(self.model).values()), "weight_decay": weight_decay}]

    def scheduled(self, moment: Moment) -> dict[str, float]:
        """What the task schedules, by name, for the record of the update."""
        return {}

    def evaluate(self, model: nn.Module, accelerator: Accelerator, check_stop: Callable[[], None]) -> dict[str, float]:
        """Metrics on held-out data; empty where there is none.

        Args:
            model: the task's model as the accelerator prepared it, in evaluation mode. Every process calls this.
            accelerator: to spread batches over processes and to sum over them.
            check_stop: to be called between batches, equally often by every process: it ends a long evaluation (by an
                exception) when the run was asked to stop.
        """
        return {}

    def identity(self) -> Mapping[str, Any]:
        """What must not have changed when a run is resumed, by name, as plain JSON values: data, base, tokenizer."""
        return {}

    def describe(self) -> Mapping[str, Any]:
        """What the data came to, as plain JSON values, for the file `data.json` of the run."""
        return {}

    def save(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """Write the trained artefact; called on the main process alone.

        Args:
            folder: an empty folder.
            state: the model's gathered state where its parameters are sharded over processes, else None.
        """
        raise NotImplementedError
