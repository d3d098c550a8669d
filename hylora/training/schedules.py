# SPDX-License-Identifier: Apache-2.0
"""Schedules: pure functions from training progress in [0, 1] to a value.

A schedule keeps no state, so resuming and every process agree on its value by construction. Learning rates use them as
a factor on the base rate; anything else that changes during training can use them with absolute values.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence

__all__ = [
    "Schedule",
    "constant",
    "cosine",
    "exponential",
    "linear",
    "multi_step",
    "piecewise",
    "polynomial",
    "warmup",
]

Schedule = Callable[[float], float]


def constant(value: float) -> Schedule:
    """Always `value`."""
    return lambda progress: value


def linear(start: float, end: float) -> Schedule:
    """A straight line from `start` at progress 0 to `end` at progress 1."""
    return polynomial(start, end, power=1.0)


def polynomial(start: float, end: float, power: float) -> Schedule:
    """`end + (start - end) * (1 - progress) ** power`.

    Raises:
        ValueError: if `power` is not positive and finite.
    """
    if not 0 < power < math.inf:
        raise ValueError(f"power={power!r} must be positive and finite")
    return lambda progress: end + (start - end) * (1.0 - _unit(progress)) ** power


def cosine(start: float, end: float) -> Schedule:
    """Half a cosine period from `start` to `end`, flat at both ends."""
    return lambda progress: end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * _unit(progress)))


def exponential(start: float, end: float) -> Schedule:
    """From `start` to `end` by the same factor at every point: 0.97 per epoch comes to an end of 0.97 ** epochs.

    Raises:
        ValueError: if one of them is not positive and finite.
    """
    if not (0 < start < math.inf and 0 < end < math.inf):
        raise ValueError(f"start={start!r} and final={end!r} must be positive and finite")
    return lambda progress: start * (end / start) ** _unit(progress)


def multi_step(start: float, milestones: Sequence[float], factor: float) -> Schedule:
    """`start`, multiplied by `factor` at each milestone that has been reached.

    Args:
        start: value before the first milestone.
        milestones: points of progress in (0, 1), ascending.
        factor: applied once per milestone.

    Raises:
        ValueError: if the milestones are not ascending points in (0, 1).
    """
    points = list(milestones)
    if not _ascending([0.0, *points, 1.0]):
        raise ValueError(f"milestones={points!r} must be ascending points of progress in (0, 1)")
    return lambda progress: start * factor ** bisect.bisect_right(points, _unit(progress))


def piecewise(points: Sequence[tuple[float, float]]) -> Schedule:
    """Straight lines through `(progress, value)` points; constant before the first and after the last.

    Raises:
        ValueError: if there is no point, or their progress is not ascending within [0, 1].
    """
    positions = [position for position, _ in points]
    values = [value for _, value in points]
    if not positions or not _ascending(positions) or not 0.0 <= positions[0] <= positions[-1] <= 1.0:
        raise ValueError(f"points={list(points)!r} must be (progress, value) pairs with progress ascending in [0, 1]")

    def value(progress: float) -> float:
        right = bisect.bisect_right(positions, _unit(progress))
        if right == 0:
            return values[0]
        if right == len(positions):
            return values[-1]
        share = (progress - positions[right - 1]) / (positions[right] - positions[right - 1])
        return values[right - 1] + share * (values[right] - values[right - 1])

    return value


def warmup(step: int, steps: int) -> float:
    """Linear warm-up factor of an update, `(step + 1) / steps` and at most 1, so that no update is made at rate zero.

    Args:
        step: index of the update, from 0.
        steps: updates until the factor is 1; 0 for no warm-up.
    """
    return 1.0 if steps <= 0 else min(1.0, (step + 1) / steps)


def _unit(progress: float) -> float:
    """Progress held within [0, 1]."""
    return min(1.0, max(0.0, progress))


def _ascending(points: Sequence[float]) -> bool:
    """Whether each point is above the one before; not so beside one that is no number."""
    return all(one < next_one for one, next_one in itertools.pairwise(points))
