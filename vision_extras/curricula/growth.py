# SPDX-License-Identifier: Apache-2.0
"""Growing a network's width and depth while it is trained (chapter 4, section 4.4)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol

import torch

from hylora.training.fields import check_range
from hylora.training.method import Method
from hylora.training.moment import Moment
from vision_extras.curricula.plan import Plan
from vision_extras.models import ModelRecipe

__all__ = ["Growable", "Growth", "GrowthRecipe"]


@dataclass(frozen=True, kw_only=True)
class GrowthRecipe:
    """What the network starts from; by a straight line over the epochs it grows to its full size (equation 4.3).

    Args:
        width: factor on its channels in the first epoch, w_0 in (0, 1].
        depth: factor on its blocks in the first epoch, d_0 in (0, 1].
        until: the share of the epochs after which it has its full size, tau in (0, 1].
    """

    width: float = 1.0
    depth: float = 1.0
    until: float = 0.75

    def __post_init__(self) -> None:
        check_range(self, "width", "depth", "until", above=0, most=1)

    @property
    def grows(self) -> bool:
        """Whether the network changes at all."""
        return self.width < 1 or self.depth < 1

    def network_at(self, model: ModelRecipe, epoch: int, epochs: int) -> ModelRecipe:
        """The network in an epoch, from 0, of so many.

        Args:
            model: the full network.
            epoch: at hand.
            epochs: of the run, E.
        """
        position = epoch / (self.until * epochs)
        return dataclasses.replace(
            model,
            width=model.width * _grown(self.width, position),
            depth=model.depth * _grown(self.depth, position),
        )


def _grown(start: float, position: float) -> float:
    """h_l of equation 4.3; `position` is the epoch over the epochs of expansion, tau * E."""
    return start + (1 - start) * position if position < 1 else 1.0


class Growable(Protocol):
    """A network that grows without losing what it has learned, such as `vision_extras.models.resnet.ResNet`."""

    def grow(self, width: float, depth: float, draw: torch.Generator) -> bool:
        """Grow to these factors; whether anything changed."""


class Growth(Method):
    """Sets a network's width and depth at the beginning of each epoch.

    Methods that keep something for each parameter, such as masks, must come after this one: in the update in which a
    parameter grows, they then find it grown.

    Args:
        network: as it is in the first epoch.
        model: the full network.
        recipe: of its growth.
        plan: of the run's updates.
        epochs: of the run.
    """

    def __init__(self, network: Growable, model: ModelRecipe, recipe: GrowthRecipe, plan: Plan, epochs: int) -> None:
        self._network = network
        self._model = model
        self._recipe = recipe
        self._plan = plan
        self._epochs = epochs

    def begin(self, moment: Moment) -> bool:
        """Grow, with new weights drawn at random."""
        now = self._now(moment)
        return self._network.grow(now.width, now.depth, moment.generator("growth"))

    def scheduled(self, moment: Moment) -> dict[str, float]:
        """The factors on the channels and blocks that the network's name stands for."""
        now = self._now(moment)
        return {"width_factor": now.width, "depth_factor": now.depth}

    def _now(self, moment: Moment) -> ModelRecipe:
        return self._recipe.network_at(self._model, self._plan.epoch(moment.step), self._epochs)
