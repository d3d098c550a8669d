# SPDX-License-Identifier: Apache-2.0
"""What tasks on images share: a plan lays out their updates, by epochs and resolutions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from hylora.training.feed import Collate, RowFeed, Share
from hylora.training.moment import Moment
from hylora.training.optimizer import decay_matrices
from hylora.training.recipe import RecipeError
from hylora.training.task import Task
from vision_extras.curricula import Plan
from vision_extras.models import check_sides

__all__ = ["PlannedTask", "refuse_sides"]


class PlannedTask(Task):
    """A task whose updates a plan lays out.

    Args:
        model: what is trained.
        rows: images to learn from, with a `fingerprint`.
        collate: makes batches of them, of a (height, width).
        recipe: of the run; its sections `sampler` and `training` are read.
        share: this process's share of each update.
    """

    last_file = "config.json"

    def __init__(self, model: nn.Module, rows: Any, collate: Collate, recipe: Any, share: Share) -> None:
        self.model = model
        self._rows = rows
        self._recipe = recipe
        loop = recipe.training
        self.plan = Plan(
            recipe.sampler,
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

    def scheduled(self, moment: Moment) -> dict[str, float]:
        """The epoch, and the images' height and width, on the average where processes have shapes of their own."""
        batches = self.plan.batches(moment.step)
        height, width = (sum(rows * shape[axis] for rows, shape in batches) for axis in (0, 1))
        rows = sum(rows for rows, _ in batches)
        return {"epoch": self.plan.epoch(moment.step), "height": height / rows, "width": width / rows}

    def evaluation_due(self, step: int, every: int) -> bool:
        """`every` counts epochs."""
        epoch = self.plan.epoch(step - 1) + 1
        return every > 0 and step == self.plan.first_step(epoch) and epoch % every == 0

    def identity(self) -> Mapping[str, str]:
        """Fingerprints of the images, and of the updates: their plan may depend on how many processes there are."""
        return {"images": self._rows.fingerprint(), "updates": self.plan.fingerprint()}

    def results(self) -> Mapping[str, Any]:
        """How many images training took, counted as often as they were seen, and how large the network is."""
        return {
            "images_seen": len(self._rows) * self._recipe.training.epochs,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
        }


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
