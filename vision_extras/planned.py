# SPDX-License-Identifier: Apache-2.0
"""What tasks share whose updates a plan lays out, by epochs and shapes: resolutions, or shares of masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from hylora.training.feed import Collate, RowFeed, Share
from hylora.training.moment import Moment
from hylora.training.optimizer import decay_matrices
from hylora.training.recipe import RecipeError
from hylora.training.schedules import warmup
from hylora.training.task import Task
from vision_extras.curricula import Plan, Sampler
from vision_extras.models import check_sides
from vision_extras.recipe import EpochScheduleRecipe

__all__ = ["PlannedTask", "ResizedTask", "refuse_sides"]


class PlannedTask(Task):
    """A task whose updates a plan lays out.

    Attributes:
        rows_are: what an epoch goes over, in a word.

    Args:
        model: what is trained.
        rows: to learn from, with a `fingerprint`.
        collate: makes batches of them, in a shape of the plan's.
        recipe: of the run; its section `training` is read.
        sampler: of the plan.
        share: this process's share of each update.
    """

    rows_are: str
    last_file = "config.json"

    def __init__(
        self, model: nn.Module, rows: Any, collate: Collate, recipe: Any, sampler: Sampler, share: Share
    ) -> None:
        self.model = model
        self._rows = rows
        self._recipe = recipe
        loop = recipe.training
        self.plan = Plan(
            sampler,
            len(rows),
            loop.epochs,
            loop.global_batch_size,
            loop.batch_size,
            loop.seed,
            share.world_size,
        )
        self.steps = self.plan.steps
        self.feed = RowFeed(rows, collate, self.plan.window, share, loop.workers)
        self.methods = []

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Weight decay spares norms, biases and scales."""
        return decay_matrices(self.model, weight_decay)

    def rate(self, moment: Moment, factor: float) -> float:
        """As it is, but for a warm-up in epochs."""
        schedule = self._recipe.optimizer.schedule
        epochs = schedule.warmup_epochs if isinstance(schedule, EpochScheduleRecipe) else 0
        return factor * warmup(moment.step, self.plan.first_step(epochs))

    def scheduled(self, moment: Moment) -> dict[str, float]:
        """The epoch, from 0."""
        return {"epoch": self.plan.epoch(moment.step)}

    def evaluation_due(self, step: int, every: int) -> bool:
        """`every` counts epochs."""
        epoch = self.plan.epoch(step - 1) + 1
        return every > 0 and step == self.plan.first_step(epoch) and epoch % every == 0

    def identity(self) -> Mapping[str, str]:
        """Fingerprints of the rows, and of the updates: their plan may depend on how many processes there are."""
        return {self.rows_are: self._rows.fingerprint(), "updates": self.plan.fingerprint()}

    def results(self) -> Mapping[str, Any]:
        """How many rows training took, counted as often as they were seen, and how large the network is."""
        return {
            f"{self.rows_are}_seen": len(self._rows) * self._recipe.training.epochs,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
        }


class ResizedTask(PlannedTask):
    """A task whose images come at resolutions that the section `sampler` of its recipe says.

    Args:
        model, rows, collate, recipe, share: as of `PlannedTask`.
    """

    rows_are = "images"

    def __init__(self, model: nn.Module, rows: Any, collate: Collate, recipe: Any, share: Share) -> None:
        super().__init__(model, rows, collate, recipe, recipe.sampler, share)

    def scheduled(self, moment: Moment) -> dict[str, float]:
        """The epoch, and the images' height and width, on the average where processes have shapes of their own."""
        batches = self.plan.batches(moment.step)
        height, width = (sum(rows * shape[axis] for rows, shape in batches) for axis in (0, 1))
        rows = sum(rows for rows, _ in batches)
        return {**super().scheduled(moment), "height": height / rows, "width": width / rows}


def refuse_sides(recipe: Any, network: nn.Module, sides: Iterable[int] = ()) -> None:
    """Refuse a recipe whose images a network cannot take.

    Args:
        recipe: of the run; its sections `sampler` and `training` are read.
        network: that is trained; it may be on the meta device.
        sides: heights and widths, in pixels, at which it is also evaluated.

    Raises:
        RecipeError: naming the section, the shape and what the network takes.
    """
    squares = [(side, side) for side in sides]
    shapes = [*recipe.sampler.shapes(recipe.training.epochs), recipe.sampler.shape]
    for key, of in (("sampler", shapes), ("evaluation.sides", squares)):
        try:
            check_sides(network, of)
        except ValueError as error:
            raise RecipeError(f"{key}: {error}") from error
