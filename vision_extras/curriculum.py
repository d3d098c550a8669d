# SPDX-License-Identifier: Apache-2.0
"""What changes in the course of a run: each a pure function of the moment."""

from __future__ import annotations

import math

from hylora.training.feed import WindowSize
from hylora.training.moment import Moment
from hylora.training.schedules import piecewise
from vision_extras.models import STRIDE
from vision_extras.recipe import ImageRecipe

__all__ = ["Curriculum"]


class Curriculum:
    """The curriculum of a recipe.

    Args:
        recipe: of the run.
    """

    def __init__(self, recipe: ImageRecipe) -> None:
        start, self.final_side = recipe.sides()
        pruning = recipe.pruning
        self._recipe = recipe
        self._side = piecewise([(0.0, start), (recipe.resolution.until, self.final_side)])
        self._sparsity = piecewise([(pruning.begin, 0.0), (pruning.end, pruning.sparsity)])

    def side(self, moment: Moment) -> int:
        """The images' height and width in an update, a multiple of the network's stride."""
        return STRIDE * round(self._side(moment.progress) / STRIDE)

    def window(self, moment: Moment) -> WindowSize:
        """The images of an update: as many as make the pixels of a whole batch at the final resolution."""
        side, loop = self.side(moment), self._recipe.training
        more = (self.final_side / side) ** 2
        # Rounded up, for passes of a single image cannot share a window evenly.
        return WindowSize(int(loop.global_batch_size * more), math.ceil(loop.batch_size * more), side)

    def blocks(self, moment: Moment) -> int:
        """Residual blocks in an update."""
        return self._recipe.model.blocks + sum(moment.progress >= point for point in self._recipe.growth.at)

    def sparsity(self, moment: Moment) -> float:
        """The share of weights that are gone after an update."""
        return self._sparsity((moment.step + 1) / moment.steps)
