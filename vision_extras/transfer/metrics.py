# SPDX-License-Identifier: Apache-2.0
"""What is said of sparse networks that were transferred to several tasks (section 4.3 of the sparse thesis)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from vision_extras.masks import prunable

__all__ = ["MeanIncrease", "mean_increase", "pruned_filters", "relative_increase", "task_difficulty"]


class MeanIncrease(NamedTuple):
    """A relative increase in error over tasks.

    Args:
        mean: over tasks; below 0 where errors are smaller than the dense network's.
        error: the standard error of that mean; None of a single task.
    """

    mean: float
    error: float | None


def relative_increase(accuracy: float, dense: float) -> float:
    """By which share of the dense network's error a network's error is larger on a task.

    Args:
        accuracy: of the network, in [0, 1].
        dense: of the dense network on the same task.

    Raises:
        ValueError: if the dense network makes no error, which nothing is a share of.
    """
    if not dense < 1:
        raise ValueError(f"dense={dense!r} must be below 1: errors are told as shares of the dense network's")
    return (dense - accuracy) / (1 - dense)


def mean_increase(accuracies: Mapping[str, float], dense: Mapping[str, float]) -> MeanIncrease:
    """The relative increase in error, over tasks.

    Args:
        accuracies: of the network, by task, in [0, 1].
        dense: of the dense network on the same tasks.

    Raises:
        ValueError: if the tasks are not the same, there are none, or the dense network makes no error in one.
    """
    if not accuracies or accuracies.keys() != dense.keys():
        raise ValueError(f"accuracies of {sorted(accuracies)} and dense ones of {sorted(dense)} must be of the same")
    found = [relative_increase(accuracy, dense[task]) for task, accuracy in accuracies.items()]
    error = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None
    return MeanIncrease(statistics.fmean(found), error)


def task_difficulty(full: float, linear: float) -> float:
    """What full finetuning of the dense network gains over linear finetuning, in accuracy."""
    return full - linear


def pruned_filters(network: nn.Module) -> float:
    """The share of a network's filters, the output channels of its convolutions, of which no weight is left.

    Raises:
        ValueError: if it has no convolution.
    """
    filters = [weight for weight in prunable(network).values() if weight.ndim > 2]
    if not filters:
        raise ValueError("the network has no convolution, and so no filters")
    gone = sum(int((weight == 0).flatten(1).all(1).sum()) for weight in filters)
    return gone / sum(len(weight) for weight in filters)
