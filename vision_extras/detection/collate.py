# SPDX-License-Identifier: Apache-2.0
"""From images with objects to a batch of a given resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from hylora.training.feed import Batch
from vision_extras.detection.objects import Marked
from vision_extras.images import IGNORED, Resized
from vision_extras.images.geometry import resized

__all__ = ["Boxed"]


@dataclass(frozen=True)
class Boxed(Resized):
    """Makes batches of whole images, each squeezed to the batch's height and width; boxes, being shares, stay.

    Called with rows, a generator for each and (height, width), it gives `images`, [B, C, height, width] in float32,
    `boxes`, [B, M, 4] in float32 as centre (x, y), width and height in shares of the image, and `labels`, [B, M] in
    int64. M is the most objects of an image and at least 1; labels of what an image has less are -100.

    Args:
        flip: how probably left and right are exchanged.
    """

    flip: float = 0.0

    def __call__(
        self, rows: Sequence[Marked], generators: Sequence[torch.Generator | None], shape: tuple[int, int]
    ) -> Batch:
        most = max(1, *(len(row.labels) for row in rows))
        boxes = torch.zeros(len(rows), most, 4)
        labels = torch.full((len(rows), most), IGNORED)
        images = []
        for number, (row, draw) in enumerate(zip(rows, generators, strict=True)):
            image = resized(row.image, (0, 0, *row.image.size), shape)
            left, top, right, bottom = row.boxes.unbind(-1)
            if self.flip and float(torch.rand((), generator=draw)) < self.flip:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                left, right = 1 - right, 1 - left
            images.append(image)
            centred = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
            boxes[number, : len(row.labels)] = torch.stack(centred, dim=-1)
            labels[number, : len(row.labels)] = row.labels
        return {"images": self._normalised(images), "boxes": boxes, "labels": labels}
