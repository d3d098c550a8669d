# SPDX-License-Identifier: Apache-2.0
"""The turn from memorisation to forgetting, seen in the course of a signal (section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hylora.training.fields import check_choice, check_range

__all__ = ["DetectorRecipe", "smoothed", "turned"]


@dataclass(frozen=True, kw_only=True)
class DetectorRecipe:
    """When a signal, measured after each epoch, has turned from rising to falling.

    Args:
        signal: the trace of the Fisher information, or the divergence from uniform predictions.
        window: values whose mean stands for the last of them.
        fall: the share of its highest value so far by which the smoothed signal has to be below that, in [0, 1).
        patience: epochs in a row for which it has to be.
    """

    signal: Literal["fisher", "kl_uniform"] = "fisher"
    window: int = 3
    fall: float = 0.05
    patience: int = 2

    def __post_init__(self) -> None:
        check_choice(self, "signal")
        check_range(self, "window", "patience", least=1)
        check_range(self, "fall", least=0, below=1)


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and of those before it, `window` in all or as many as there are."""
    parts = [values[max(0, end - window) : end] for end in range(1, len(values) + 1)]
    return [sum(part) / len(part) for part in parts]


def turned(values: Sequence[float], recipe: DetectorRecipe) -> bool:
    """Whether a signal has turned: a function of its history alone.

    Args:
        values: a non-negative signal, one value after another.
        recipe: what counts as a turn.
    """
    smooth = smoothed(values, recipe.window)
    before, last = smooth[: -recipe.patience], smooth[-recipe.patience :]
    return bool(before) and max(last) < (1 - recipe.fall) * max(before)
