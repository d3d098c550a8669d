# SPDX-License-Identifier: Apache-2.0
"""The resolutions that a multiscale sampler draws from, and how they expand (chapter 4, sections 4.1 and 4.6.1)."""

from __future__ import annotations

import math
from collections.abc import Iterable

from hylora.training import schedules

__all__ = ["EXPANSIONS", "Shape", "batch_size_at", "expansion", "interpolated", "scaled"]

# Height and width in pixels.
Shape = tuple[int, int]

EXPANSIONS = ("linear", "cosine", "polynomial", "multi_step")


def interpolated(smallest: Shape, largest: Shape, scales: int, multiple: int) -> list[Shape]:
    """The pool S: resolutions at equal distances from the smallest to the largest, made divisible.

    Args:
        smallest: the first.
        largest: the last.
        scales: how many, at least 2, before those that rounding makes equal are taken together.
        multiple: what heights and widths are divisible by: each becomes the nearest multiple, the larger one where two
            are equally near, and at least one multiple.

    Returns:
        Distinct resolutions, ascending.
    """
    shares = [number / (scales - 1) for number in range(scales)]
    ends = list(zip(smallest, largest, strict=True))
    return _divisible(([low + share * (high - low) for low, high in ends] for share in shares), multiple)


def scaled(pool: Iterable[Shape], factor: float, multiple: int) -> list[Shape]:
    """The pool s(e): the resolutions of S times rho(e), made divisible again by the same rule.

    Returns:
        Distinct resolutions, ascending.
    """
    return _divisible(([factor * side for side in shape] for shape in pool), multiple)


def batch_size_at(shape: Shape, reference: Shape, images: int) -> int:
    """B_t = H W B / (h w), rounded down: how many images of a shape have the pixels of the reference batch.

    Args:
        shape: (h, w) of the batch.
        reference: (H, W) of the reference batch.
        images: B, of the reference batch.

    Returns:
        At least 1, which then are more pixels than the reference batch has.
    """
    return max(1, reference[0] * reference[1] * images // (shape[0] * shape[1]))


def expansion(name: str, start: float, power: float = 2.0, stages: int = 2) -> schedules.Schedule:
    """rho over the epochs of expansion: from `start` at progress 0 to 1 at progress 1, never falling.

    The dissertation names the four schedules and gives no formula for the last two.

    Args:
        name: one of `EXPANSIONS`; `polynomial` is start + (1 - start) * progress ** power, and `multi_step` rises by
            equal amounts at equal distances, the last of them at progress 1.
        start: rho_0, in (0, 1].
        power: of `polynomial`.
        stages: rises of `multi_step`.
    """
    if name == "multi_step":
        # An epoch's share of the epochs of expansion may be a rounding error below the rise that it stands at.
        return lambda progress: start + (1 - start) * math.floor(round(stages * min(1.0, progress), 9)) / stages
    if name == "polynomial":
        falling = schedules.polynomial(1.0, start, power)
        return lambda progress: falling(1.0 - progress)
    return getattr(schedules, name)(start, 1.0)


def _divisible(shapes: Iterable[Iterable[float]], multiple: int) -> list[Shape]:
    rounded = {tuple(max(1, math.floor(side / multiple + 0.5)) * multiple for side in shape) for shape in shapes}
    return sorted(rounded)
