# SPDX-License-Identifier: Apache-2.0
"""Which networks of a subspace are trained in an update (algorithms 1 to 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch

from hylora.training.moment import Moment
from vision_extras.subspaces.compression import Compression
from vision_extras.subspaces.recipe import SubspaceRecipe

__all__ = ["Curriculum", "Draw"]

# What widths cost is close to a parabola. With a power of two, channels of all parts would be rounded the same way.
_PARTS = 9


class Draw(NamedTuple):
    """A network of the subspace: a point of the line, and how much it is compressed."""

    alpha: float
    level: float


class Curriculum:
    """Says for each update of a run, as a function of the moment alone, which networks share it.

    Args:
        compression: of the subspace.
        recipe: how networks are drawn.
    """

    def __init__(self, compression: Compression, recipe: SubspaceRecipe) -> None:
        self._compression = compression
        self._recipe = recipe

    def draws(self, moment: Moment) -> list[Draw]:
        """The networks of an update, whose losses are summed."""
        compression, left = self._compression, self._left(moment.progress)
        draws = []
        for alpha in self._alphas(moment):
            level = compression.level(alpha)
            # The point stays where it was drawn, so that both ends of a line learn from the first update on.
            draws.append(Draw(alpha, compression.annealed(level, left) if left else level))
        return draws

    def expected(self, progress: float) -> list[tuple[float, float]]:
        """Levels, and how many of an update's networks are at each on the average.

        Some levels, evenly spread, stand for a continuum.

        Args:
            progress: share of training that is done.
        """
        compression, recipe = self._compression, self._recipe
        if recipe.targets:
            found = [(level, 1.0) for level in recipe.targets]
        elif recipe.curriculum == "hold" and progress < recipe.warmup:
            found = [(compression.weakest, 1.0)]
        else:
            at_end, between = (1.0, recipe.samples - 2) if recipe.samples > 1 else (recipe.bias / 2, 1 - recipe.bias)
            levels = compression.levels() or self._spread()
            found = [(compression.strongest, at_end), (compression.weakest, at_end)]
            found += [(level, between / len(levels)) for level in levels]
        left = self._left(progress)
        return [(compression.annealed(level, left) if left else level, count) for level, count in found if count]

    def _spread(self) -> list[float]:
        """The middles of equal parts of the range."""
        low, high = self._compression.strongest, self._compression.weakest
        return [low + (high - low) * (part + 0.5) / _PARTS for part in range(_PARTS)]

    def quantises_activations(self, moment: Moment) -> bool:
        """Whether what layers are given is quantised too, after the warm-up."""
        return moment.progress >= self._recipe.warmup

    def _left(self, progress: float) -> float:
        """The share of the warm-up that is still to come."""
        recipe = self._recipe
        if recipe.curriculum != "anneal" or not recipe.warmup:
            return 0.0
        return max(0.0, 1 - progress / recipe.warmup)

    def _alphas(self, moment: Moment) -> list[float]:
        compression, recipe = self._compression, self._recipe
        if recipe.targets:
            return [compression.alpha(level) for level in recipe.targets]
        strongest, weakest = compression.alpha(compression.strongest), compression.alpha(compression.weakest)
        if recipe.curriculum == "hold" and moment.progress < recipe.warmup:
            return [weakest]
        draw = moment.generator("subspace")
        if recipe.samples > 1:
            # The sandwich rule: both ends, and others between them.
            return [strongest, weakest, *(self._between(draw) for _ in range(recipe.samples - 2))]
        if torch.rand((), generator=draw) < recipe.bias:
            return [weakest if torch.rand((), generator=draw) < 0.5 else strongest]
        return [self._between(draw)]

    def _between(self, draw: torch.Generator) -> float:
        """Uniformly distributed between the ends, or over the levels where there is a number of them."""
        compression = self._compression
        if (levels := compression.levels()) is not None:
            return compression.alpha(levels[int(torch.randint(len(levels), (), generator=draw))])
        strongest, weakest = compression.alpha(compression.strongest), compression.alpha(compression.weakest)
        return strongest + (weakest - strongest) * float(torch.rand((), generator=draw, dtype=torch.float64))
