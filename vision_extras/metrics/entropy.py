# SPDX-License-Identifier: Apache-2.0
"""How the uncertainty of predictions is distributed over images (section 4.2.2, metric 5; figure 4.3d)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["entropy_powers", "entropy_skewness"]

_EPSILON = torch.finfo(torch.float64).eps


def entropy_powers(probabilities: Tensor) -> Tensor:
    """Powers of how far each prediction's entropy is below that of chance, log K - H, summed over images.

    Distances from the largest entropy rather than entropies, for the predictions of an untrained network are all close
    to it: their third moment would be lost in rounding.

    Args:
        probabilities: [B, K], float64.

    Returns:
        The sums of the first, second and third powers, [3], float64.
    """
    below = math.log(probabilities.shape[-1]) - torch.special.entr(probabilities).sum(dim=-1)
    return torch.stack([(below**power).sum() for power in (1, 2, 3)])


def entropy_skewness(powers: Tensor, count: float) -> float:
    """The skewness of the entropies of images, E[(H - E H)^3] / E[(H - E H)^2]^1.5; 0 where all are alike.

    It is positive where the network is sure of most images and unsure of a few.

    Args:
        powers: as `entropy_powers` gives them, summed over all images.
        count: of the images.
    """
    first, second, third = (powers / count).tolist()
    variance = second - first**2
    if variance <= 8 * _EPSILON * second:
        return 0.0
    # The sign is turned, since distances from the top fall where entropies rise.
    return -(third - 3 * first * second + 2 * first**3) / variance**1.5
