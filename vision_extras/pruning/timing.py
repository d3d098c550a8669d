# SPDX-License-Identifier: Apache-2.0
"""Pruning in the course of training, once, at a given moment or at one that a signal tells (chapter 2)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from hylora.training import schedules
from hylora.training.moment import Moment
from hylora.training.recipe import OptimizerRecipe, ScheduleRecipe
from vision_extras.masks import Masked, Masks, check_whole, prunable, smallest
from vision_extras.pruning.detector import turned
from vision_extras.pruning.recipe import PruningRecipe
from vision_extras.pruning.signals import Signal

__all__ = ["Epochs", "Pruning", "restarted"]

logger = logging.getLogger(__name__)


class Epochs(Protocol):
    """Where epochs begin, in updates; `vision_extras.curricula.Plan` says it."""

    def epoch(self, step: int) -> int:
        """The epoch of an update, from 0."""

    def first_step(self, epoch: int) -> int:
        """The first update of an epoch; of the number of epochs, the number of all updates."""


class Pruning(Masked):
    """Takes a share of the weights away after an epoch, and keeps them at zero from there on.

    The learning rate goes on as `restarted` says. Signals have to come before this method in the task's.

    Args:
        network: any module; what is pruned are its `prunable` weights.
        masks: a part of the task's model, so that checkpoints have them.
        recipe: how much goes, and when.
        optimizer: of the run, for its rate and schedule.
        epochs: where they begin.
        scores: of the prunable weights at a moment, by name; the lowest go.
        signal: watched for `recipe.at == "detect"`.
    """

    name = "pruning"

    def __init__(
        self,
        network: nn.Module,
        masks: Masks,
        recipe: PruningRecipe,
        optimizer: OptimizerRecipe,
        epochs: Epochs,
        scores: Callable[[Moment], Mapping[str, Tensor]],
        signal: Signal | None = None,
    ) -> None:
        if recipe.at == "detect" and signal is None:
            raise ValueError("at='detect' needs a signal to watch")
        super().__init__(masks, partial(prunable, network))
        self._recipe = recipe
        self._optimizer = optimizer
        self._epochs = epochs
        self._scores = scores
        self._signal = signal
        self._after: int | None = None
        self._history: list[float] = []
        self._epoch_values: list[float] = []

    @property
    def masking(self) -> bool:
        return self._after is not None

    def begin(self, moment: Moment) -> bool:
        super().begin(moment)
        if moment.step == 0 and self._recipe.at == 0 and self._after is None:
            self._prune(moment, 0)
        return False

    def end(self, moment: Moment) -> None:
        super().end(moment)
        if self.masking:
            return
        if self._signal is not None and self._signal.value is not None:
            self._epoch_values.append(self._signal.value)
        epoch = self._epochs.epoch(moment.step) + 1
        if moment.step + 1 == self._epochs.first_step(epoch):
            if self._epoch_values:
                self._history.append(sum(self._epoch_values) / len(self._epoch_values))
                self._epoch_values = []
            if self._due(epoch, last=moment.step + 1 == moment.steps):
                self._prune(moment, epoch)

    def _due(self, epoch: int, last: bool) -> bool:
        if self._recipe.at != "detect":
            return epoch == self._recipe.at
        if turned(self._history, self._recipe.detector):
            return True
        if last:
            logger.warning(
                "the signal %s did not turn, and the network is pruned after the last epoch, with no training after "
                "it; choose pruning.at, or a smaller pruning.detector.fall",
                self._recipe.detector.signal,
            )
        return last

    def _prune(self, moment: Moment, epoch: int) -> None:
        weights = self._weights()
        check_whole(weights, f"pruning.sparsity={self._recipe.sparsity}")
        self._masks.remove(smallest(self._scores(moment), self._recipe.sparsity, self._recipe.scope))
        self._masks.apply(weights)
        self._after = epoch

    def rate(self, moment: Moment, factor: float) -> float:
        """The schedule's factor until the weights go, and that of the schedule restarted then."""
        if self._after is None:
            return factor
        schedule = self._optimizer.schedule
        since = self._epochs.first_step(self._after) / moment.steps
        base = schedule.build()
        peak = max(self._recipe.floor / self._optimizer.lr, base(since))
        wanted, planned = restarted(schedule, since, peak)(moment.progress), base(moment.progress)
        # Warm-up and what other methods made of the factor stay.
        return factor / planned * wanted if planned else wanted

    def scheduled(self, moment: Moment) -> dict[str, float]:
        """The share of the weights that is gone."""
        return {"sparsity": self.sparsity}

    def state(self) -> dict[str, Any]:
        """After how many epochs the weights went, if they did, and what was seen of the signal."""
        return {"after": self._after, "history": self._history, "epoch_values": self._epoch_values}

    def restore(self, state: dict[str, Any]) -> None:
        self._after = state["after"]
        self._history, self._epoch_values = list(state["history"]), list(state["epoch_values"])


def restarted(schedule: ScheduleRecipe, since: float, peak: float) -> schedules.Schedule:
    """A schedule that starts again in the middle of a run, from another peak (section 2.5.1).

    Shapes that run down to an end (linear, cosine, polynomial) do so anew, from the peak to the same end in what is
    left of the run. Shapes made of factors (exponential, multi_step), and all others, go on as they were, scaled to
    stand at the peak: what is lost per epoch stays. A schedule that is restarted at its own value is unchanged by
    this, if it is linear or exponential; a cosine is flat at its peak once more.

    Args:
        schedule: of the run; its warm-up is left out.
        since: progress at which it starts again, in [0, 1).
        peak: factor on the learning rate there.

    Returns:
        The factor for progress from `since` on.
    """
    if schedule.name in ("linear", "cosine", "polynomial"):
        options = {"power": schedule.power} if schedule.name == "polynomial" else {}
        shape = getattr(schedules, schedule.name)(peak, schedule.final, **options)
        return lambda progress: shape((progress - since) / (1 - since))
    base = schedule.build()
    return lambda progress: peak * base(progress) / base(since) if base(since) else peak
