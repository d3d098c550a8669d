# SPDX-License-Identifier: Apache-2.0
"""From images and their labels to a batch of a given resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hylora.training.feed import Batch

__all__ = ["Augmented", "Resized"]

Row = tuple[Tensor, int]


@dataclass(frozen=True)
class Resized:
    """Makes batches of images as they are; each is resized to the same height and width.

    Called, it gives `images`, [B, C, *shape] in float32, and `labels`, [B] in int64.
    """

    def __call__(self, rows: Sequence[Row], generators: Sequence[torch.Generator], shape: tuple[int, int]) -> Batch:
        images = torch.stack([self.augment(image, draw) for (image, _), draw in zip(rows, generators, strict=True)])
        if images.shape[-2:] != shape:
            images = F.interpolate(images, shape, mode="bilinear", antialias=True)
        return {"images": images, "labels": torch.tensor([label for _, label in rows])}

    def augment(self, image: Tensor, draw: torch.Generator) -> Tensor:
        """An image to learn from in place of `image`, [C, H, W] both."""
        return image


@dataclass(frozen=True)
class Augmented(Resized):
    """Makes batches of images that are moved at random.

    Args:
        shift: by how many pixels of the original at most, up or down, left or right.
    """

    shift: int

    def augment(self, image: Tensor, draw: torch.Generator) -> Tensor:
        top, left = torch.randint(2 * self.shift + 1, (2,), generator=draw).tolist()
        height, width = image.shape[-2:]
        return F.pad(image, [self.shift] * 4)[:, top : top + height, left : left + width]
