# SPDX-License-Identifier: Apache-2.0
"""From images and their labels to a batch of a given resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hylora.training.feed import Batch
from vision_extras.images.data import Row
from vision_extras.images.erasing import erase
from vision_extras.images.geometry import central_box, flipped, random_box, resized, shifted
from vision_extras.images.mixing import mixed
from vision_extras.images.randaugment import randaugment
from vision_extras.images.recipe import AugmentRecipe

__all__ = ["Augmented", "Resized"]


@dataclass(frozen=True)
class Resized:
    """Makes batches of images as they are: of each the largest part about its centre that has the batch's shape.

    Called with rows, a generator for each and (height, width), it gives `images`, [B, C, height, width] in float32,
    and `labels`, [B] in int64.

    Args:
        mean: subtracted from pixels in [0, 1], for each channel.
        std: divided by after that.
        crop: which share of that part is seen, along each side.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0

    def __call__(
        self, rows: Sequence[Row], generators: Sequence[torch.Generator | None], shape: tuple[int, int]
    ) -> Batch:
        images = [self.view(image, draw, shape) for (image, _), draw in zip(rows, generators, strict=True)]
        return {"images": self._normalised(images), "labels": torch.tensor([label for _, label in rows])}

    def view(self, image: Image.Image, draw: torch.Generator | None, shape: tuple[int, int]) -> Image.Image:
        """What is seen of an image, at a batch's height and width."""
        return resized(image, central_box(image.size, shape, self.crop), shape)

    def _normalised(self, images: Sequence[Image.Image]) -> Tensor:
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        scale, offset = 255 * std, mean / std
        width, height = images[0].size
        batch = torch.empty(len(images), len(images[0].getbands()), height, width)
        # One after another, while an image is in the processor's cache; the batch at once is slower.
        for row, image in zip(batch, images, strict=True):
            pixels = torch.from_numpy(np.array(image)).view(height, width, -1)
            row.copy_(pixels.permute(2, 0, 1).contiguous()).div_(scale).sub_(offset)
        return batch


@dataclass(frozen=True)
class Augmented(Resized):
    """Makes batches of images that are changed at random. All that is drawn for an image, its own generator gives.

    Where images are mixed, `labels` are [B, classes] in float32: the share of each.

    Args:
        recipe: of the changes.
        classes: how many labels there are.
    """

    recipe: AugmentRecipe = AugmentRecipe()
    classes: int = 0

    def __call__(self, rows: Sequence[Row], generators: Sequence[torch.Generator], shape: tuple[int, int]) -> Batch:
        batch = super().__call__(rows, generators, shape)
        images, labels, recipe = batch["images"], batch["labels"], self.recipe
        if recipe.erase:
            for image, draw in zip(images, generators, strict=True):
                erase(image, recipe.erase, draw)
        if recipe.mixup or recipe.cutmix:
            labels = F.one_hot(labels, self.classes).float()
            images, labels = mixed(images, labels, generators, recipe.mixup, recipe.cutmix)
        return {"images": images, "labels": labels}

    def view(self, image: Image.Image, draw: torch.Generator, shape: tuple[int, int]) -> Image.Image:
        recipe = self.recipe
        if recipe.shift:
            image = shifted(image, recipe.shift, draw)
        if recipe.scale is None:
            box = central_box(image.size, shape)
        else:
            box = random_box(image.size, shape, recipe.scale, recipe.ratio, draw)
        image = resized(image, box, shape)
        if recipe.flip:
            image = flipped(image, recipe.flip, draw)
        if recipe.randaugment:
            image = randaugment(image, recipe.randaugment, recipe.magnitude, draw)
        return image
