# SPDX-License-Identifier: Apache-2.0
"""How far a classifier's confidence is from its accuracy (section 4.2.2, metric 2; figure 4.3a)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BINS", "calibration_error", "calibration_gaps"]

BINS = 15


def calibration_gaps(probabilities: Tensor, labels: Tensor) -> Tensor:
    """By how much images in each bin of confidence are more often right than they are confident, summed over them.

    A prediction's confidence is its largest probability; bin m of M holds those in ((m-1)/M, m/M].

    Args:
        probabilities: [B, K], float64.
        labels: [B], int64.

    Returns:
        [BINS], float64.
    """
    confidence, predicted = probabilities.max(dim=-1)
    borders = torch.linspace(0, 1, BINS + 1, dtype=probabilities.dtype)[1:-1]
    gaps = (predicted == labels).double() - confidence
    return torch.bincount(torch.bucketize(confidence, borders), gaps, minlength=BINS)


def calibration_error(gaps: Tensor, count: float) -> float:
    """The expected calibration error: over bins, the mean of |accuracy - confidence|, weighted by their images.

    A bin's weight times its gap is |sum of (right - confidence)| / count, so that the sums are all it takes.

    Args:
        gaps: as `calibration_gaps` gives them, summed over all images.
        count: of the images.
    """
    return float(gaps.abs().sum()) / count
