# SPDX-License-Identifier: Apache-2.0
"""Random erasing (Zhong et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from vision_extras.images.geometry import random_rectangle

__all__ = ["erase"]

# Least and greatest share of the image's area, and width to height, as the paper has them.
_SCALE = (0.02, 1 / 3)
_RATIO = (0.3, 1 / 0.3)


def erase(image: Tensor, probability: float, draw: torch.Generator) -> None:
    """Set a random rectangle of a normalised image to 0, the mean, in place and as probably as told.

    Args:
        image: [C, H, W].
        probability: in [0, 1].
        draw: gives the random numbers.
    """
    if float(torch.rand((), generator=draw)) >= probability:
        return
    height, width = image.shape[-2:]
    box = random_rectangle((width, height), _SCALE, _RATIO, draw)
    if box is not None:
        left, top, right, bottom = box
        image[:, top:bottom, left:right] = 0
