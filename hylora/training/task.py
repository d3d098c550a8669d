# SPDX-License-Identifier: Apache-2.0
"""What is trained, as the loop sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from hylora.training.feed import Batch, Feed
from hylora.training.method import Method
from hylora.training.optimizer import trainable

__all__ = ["Task"]


class Task(Method):
    """A model, its data and its loss, with the methods that change its training.

    For each update the loop calls `begin`, `feed.window`, `gradients`, and `end` after the optimizer's step; each of
    them of the task first, and then of its methods in their order.

    Attributes:
        model: called with a batch as keyword arguments, gives `(loss_sum, count)`: a scalar loss summed over `count`
            terms. The loop divides by the terms of the whole update, so that each weighs the same however they are
            spread over micro-batches and processes.
        feed: where the batches come from.
        unit: what `count` counts, for display.
        methods: what else happens in the course of training; anyone may add some before training starts.
        steps: updates of the run where the task knows them, from its data say; None for the recipe's.
        last_file: of the files that `save` writes, the one that appears in the run's folder after all others.
    """

    model: nn.Module
    feed: Feed
    unit: str = "rows"
    methods: Sequence[Method] = ()
    steps: int | None = None
    last_file: str = ""

    def count(self, batch: Batch) -> int:
        """The terms that the batch's loss sums over, known without running the model."""
        raise NotImplementedError

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """The optimizer's parameter groups, as torch takes them; by default one with everything that is trained.

        A group's own "lr" is followed by the schedule as the recipe's is.

        Args:
            weight_decay: the recipe's.
        """
        return [{"params": list(trainable(self.model).values()), "weight_decay": weight_decay}]

    def evaluation_due(self, step: int, every: int) -> bool:
        """Whether to evaluate when `step` updates are made.

        Args:
            step: updates made.
            every: the recipe's `evaluation.every`, of updates unless a task counts it otherwise; 0 for never.
        """
        return every > 0 and step % every == 0

    def evaluate(self, model: nn.Module, accelerator: Accelerator, check_stop: Callable[[], None]) -> dict[str, float]:
        """Metrics on held-out data; empty where there is none.

        Args:
            model: the task's model as the accelerator prepared it, in evaluation mode. Every process calls this.
            accelerator: to spread batches over processes and to sum over them.
            check_stop: to be called between batches, equally often by every process: it ends a long evaluation (by an
                exception) when the run was asked to stop.
        """
        return {}

    def evaluate_ends(
        self, model: nn.Module, accelerator: Accelerator, check_stop: Callable[[], None]
    ) -> dict[str, float]:
        """Further metrics on held-out data of what training starts from and of what it ends with, where the recipe has
        `evaluation.at_start`; arguments as for `evaluate`."""
        return {}

    def measure(self, model: nn.Module, accelerator: Accelerator, check_stop: Callable[[], None]) -> dict[str, Any]:
        """What is measured of the trained model once, too dear for every evaluation; for the file `results.json`.

        Args:
            model, accelerator, check_stop: as for `evaluate`.

        Returns:
            Plain JSON values by name, the same in every process.
        """
        return {}

    def identity(self) -> Mapping[str, Any]:
        """What must not have changed when a run is resumed, by name, as plain JSON values: data, base, tokenizer."""
        return {}

    def describe(self) -> Mapping[str, Any]:
        """What the data came to, as plain JSON values, for the file `data.json` of the run."""
        return {}

    def results(self) -> Mapping[str, Any] | None:
        """What the run came to, as plain JSON values, for its file `results.json`; None for no such file.

        The loop adds the recipe, the last evaluation, what `measure` gave, updates, seconds, memory and the
        environment. Called on the main process alone, when training is over.
        """
        return None

    def save(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """Write the trained artefact; called on the main process alone.

        Args:
            folder: an empty folder.
            state: the model's gathered state where its parameters are sharded over processes, else None.
        """
        raise NotImplementedError
