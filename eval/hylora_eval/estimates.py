# SPDX-License-Identifier: Apache-2.0
"""Means, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["complete_groups", "mean_and_standard_error", "mean_of_estimates"]

T = TypeVar("T")


def mean_of_estimates(values: Sequence[float], errors: Sequence[float | None]) -> tuple[float, float | None]:
    """The plain mean of independent estimates, and its standard error; None where one of theirs is not known."""
    return fmean(values), None if None in errors else math.hypot(*errors) / len(errors)


def complete_groups(groups: Mapping[str, Sequence[str]], found: Mapping[str, T]) -> dict[str, list[T]]:
    """What was found for the members of each group; groups of which a member is missing are left out."""
    return {
        name: [found[member] for member in members]
        for name, members in groups.items()
        if all(member in found for member in members)
    }


def mean_and_standard_error(sums: Tensor, counts: Tensor) -> tuple[float, float | None]:
    """Mean over all items of all documents, and its standard error with documents as the sampling unit.

    Tokens of one document resemble each other, so an error over tokens would be too small. The mean is a ratio of two
    sums over documents, r = sum(S) / sum(n); linearised around it, its variance is
    D / (D - 1) * sum((S - r n)^2) / sum(n)^2.

    Args:
        sums: sum of the items of each document [D].
        counts: items of each document [D]; documents without any are left out.

    Returns:
        The mean, and its standard error (None for a single document).

    Raises:
        ValueError: if no document has an item.
    """
    sums, counts = sums[counts > 0].double(), counts[counts > 0].double()
    documents, total = len(counts), counts.sum()
    if documents == 0:
        raise ValueError("there is nothing to average: no document has an item")
    mean = sums.sum() / total
    if documents == 1:
        return float(mean), None
    residuals = sums - mean * counts
    return float(mean), float((documents / (documents - 1) * residuals.square().sum()).sqrt() / total)
