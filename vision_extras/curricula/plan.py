# SPDX-License-Identifier: Apache-2.0
"""Every update of a run before it starts: how many images it sees, and at what resolution."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Literal

from hylora.training.feed import WindowSize
from hylora.training.fields import check_choice, check_range
from hylora.training.moment import Moment

__all__ = ["Plan", "SamplerRecipe"]


@dataclass(frozen=True, kw_only=True)
class SamplerRecipe:
    """Resolutions and batch sizes over training (chapter 4, section 4.1).

    Args:
        name: single- or multiscale, fixed or variable batch size, with a curriculum or without.
        side: height and width of the reference batch, in pixels; null for the images' own.
    """

    name: Literal["ssc_fbs"] = "ssc_fbs"
    side: int | None = None

    def __post_init__(self) -> None:
        check_choice(self, "name")
        check_range(self, "side", least=1)


class Plan:
    """The updates of a run: a pure function of its arguments.

    Each epoch sees every image once; its last batch has what is left.

    Args:
        recipe: of the sampler, with its sides known.
        images: in an epoch.
        epochs: of the run.
        batch_size: images of a reference batch, over all processes.
        rows_per_pass: at most so many reference images in a process's forward pass.
        seed: of the draws.
        processes: that share each update.
    """

    def __init__(
        self,
        recipe: SamplerRecipe,
        images: int,
        epochs: int,
        batch_size: int,
        rows_per_pass: int,
        seed: int,
        processes: int = 1,
    ) -> None:
        if recipe.side is None:
            raise ValueError("side=None must be a number of pixels by now")
        whole, left = divmod(images, batch_size)
        epoch = [WindowSize(batch_size, rows_per_pass, (recipe.side, recipe.side))] * whole
        if left:
            epoch.append(WindowSize(left, rows_per_pass, (recipe.side, recipe.side)))
        self._windows = epoch * epochs
        self._starts = [len(epoch) * number for number in range(epochs + 1)]

    @property
    def steps(self) -> int:
        """Updates of the whole run."""
        return len(self._windows)

    def window(self, moment: Moment) -> WindowSize:
        """What an update sees; its shape is (height, width)."""
        return self._windows[moment.step]

    def epoch(self, step: int) -> int:
        """The epoch of an update, from 0."""
        return bisect.bisect_right(self._starts, step) - 1

    def first_step(self, epoch: int) -> int:
        """The first update of an epoch; of the number of epochs, the number of all updates."""
        return self._starts[epoch]
