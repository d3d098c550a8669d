# SPDX-License-Identifier: Apache-2.0
"""Images of a batch mixed with each other: mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["mixed"]


def mixed(
    images: Tensor, labels: Tensor, generators: Sequence[torch.Generator], mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """Mix each image with the one before it in the batch, and the first with the last.

    Of an image a share stays, drawn from a symmetric beta distribution, and of its label the same share. With mixup
    the two are blended; with cutmix a rectangle of the other is pasted at a random place, cut off at the border, and
    the share is what the rectangle leaves.

    Args:
        images: [B, C, H, W].
        labels: [B, classes], the share of each.
        generators: of each image; what is drawn for one does not depend on the batch, but whom it meets does.
        mixup: alpha of the shares; 0 for no mixup.
        cutmix: alpha of the shares; 0 for no cutmix. With both, each image gets one of them, as likely as the other.

    Returns:
        New images and new labels.
    """
    others, found, shares = images.roll(1, 0), images.clone(), []
    for image, other, draw in zip(found, others, generators, strict=True):
        blend = float(torch.rand((), generator=draw)) < 0.5 if mixup and cutmix else bool(mixup)
        share = _beta(mixup if blend else cutmix, draw)
        if blend:
            torch.lerp(other, image, share, out=image)
        else:
            share = _paste(image, other, share, draw)
        shares.append(share)
    kept = torch.tensor(shares)[:, None]
    return found, kept * labels + (1 - kept) * labels.roll(1, 0)


def _beta(alpha: float, draw: torch.Generator) -> float:
    """A draw from Beta(alpha, alpha), which torch has from its global generator alone."""
    seed = int(torch.randint(2**63 - 1, (), generator=draw))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def _paste(image: Tensor, other: Tensor, share: float, draw: torch.Generator) -> float:
    """Paste a rectangle about a random point, in place; the share of the image that is left."""
    height, width = image.shape[-2:]
    side = math.sqrt(1 - share)
    y, x = torch.rand(2, generator=draw).tolist()
    (top, bottom), (left, right) = _span(y, side, height), _span(x, side, width)
    image[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    return 1 - (bottom - top) * (right - left) / (height * width)


def _span(centre: float, share: float, size: int) -> tuple[int, int]:
    """A share of a side about a point on it, in whole pixels within the image."""
    first = round((centre - share / 2) * size)
    return max(0, first), min(size, first + round(share * size))
