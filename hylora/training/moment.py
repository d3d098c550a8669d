# SPDX-License-Identifier: Apache-2.0
"""Where training stands."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hylora.randomness import generator

__all__ = ["Moment"]


@dataclass(frozen=True)
class Moment:
    """Where training stands. All that is scheduled or random in a run is a function of it, and keeps no state.

    Args:
        step: updates made so far, which is the number of the update at hand, from 0.
        steps: updates of the whole run.
        seed: of the run.
    """

    step: int
    steps: int
    seed: int

    @property
    def progress(self) -> float:
        """The share of the run that is over: 0 in the first update, below 1 in the last."""
        return self.step / self.steps

    def generator(self, *key: int | str) -> torch.Generator:
        """A generator of this moment's own.

        Args:
            *key: what it is for; another key gives unrelated numbers.
        """
        return generator(*key, self.seed, self.step)
