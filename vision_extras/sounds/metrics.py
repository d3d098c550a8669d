# SPDX-License-Identifier: Apache-2.0
"""How well clips are told apart: mean average precision over classes, and top-1 accuracy."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["average_precision", "mean_average_precision", "top1"]


def average_precision(scores: Tensor, truth: Tensor) -> Tensor:
    """The area under each class's curve of precision by recall, by steps and without interpolation.

    Clips of one score are taken together, so that their order is nothing to the result.

    Args:
        scores: [N, K], higher where a clip is more likely of a class.
        truth: [N, K], bool: whether it is.

    Returns:
        [K] in float64; not a number for a class that no clip has.
    """
    count, classes = scores.shape
    scores, order = scores.sort(dim=0, descending=True)
    hits = truth.gather(0, order).double()
    places = torch.arange(count, device=scores.device)[:, None].expand(count, classes)
    # Of each place the last one with its score: the least of those at or after it where the score is about to change.
    ends = torch.ones_like(truth, dtype=torch.bool)
    ends[:-1] = scores[:-1] != scores[1:]
    last = places.where(ends, torch.tensor(count)).flip(0).cummin(0).values.flip(0)
    precision = hits.cumsum(0).gather(0, last) / (last + 1)
    return (hits * precision).sum(0) / hits.sum(0)


def mean_average_precision(scores: Tensor, truth: Tensor) -> float:
    """The mean of `average_precision` over those classes that some clip has; not a number where there is none."""
    return float(average_precision(scores, truth).nanmean())


def top1(scores: Tensor, truth: Tensor) -> float:
    """The share of clips of whose labels, of which there may be several, one is the class with the highest score.

    Args:
        scores: [N, K].
        truth: [N, K], bool.
    """
    return float(truth.gather(1, scores.argmax(dim=1, keepdim=True)).double().mean())
