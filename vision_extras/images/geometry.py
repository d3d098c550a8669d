# SPDX-License-Identifier: Apache-2.0
"""Which part of an image is seen, at random or not, and at what size."""

from __future__ import annotations

import math

import torch
from PIL import Image

__all__ = ["Box", "central_box", "flipped", "random_box", "random_rectangle", "resized", "shifted"]

# Left, top, right and bottom in pixels of an image, as PIL has it.
Box = tuple[float, float, float, float]

_ATTEMPTS = 10


def central_box(size: tuple[int, int], shape: tuple[int, int], crop: float = 1.0) -> Box:
    """The largest part of an image, about its centre, that has a batch's ratio of sides.

    Resized to the batch's shape, it is what is left when the whole image is resized until it covers that shape, and
    what stands over is cut off.

    Args:
        size: width and height of the image.
        shape: height and width of the batch.
        crop: which share of that part is seen, along each side.
    """
    width, height = size
    zoom = crop * min(width / shape[1], height / shape[0])
    # A rounding error above the image's own side would be a box that PIL refuses.
    across, down = min(zoom * shape[1], width), min(zoom * shape[0], height)
    left, top = (width - across) / 2, (height - down) / 2
    return left, top, left + across, top + down


def random_box(
    size: tuple[int, int],
    shape: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    draw: torch.Generator,
) -> Box:
    """A part of an image of random area, ratio of sides and place (Szegedy et al. 2015, section 6).

    Where `random_rectangle` finds none, it is the largest about the centre.

    Args:
        size: width and height of the image.
        shape: height and width of the batch.
        scale: least and greatest share of the image's area.
        ratio: least and greatest width to height, where a batch is square; relative to the batch's own elsewhere.
        draw: gives the random numbers.
    """
    sides = shape[1] / shape[0]
    ratio = (ratio[0] * sides, ratio[1] * sides)
    return random_rectangle(size, scale, ratio, draw) or central_box(size, shape)


def random_rectangle(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], draw: torch.Generator
) -> tuple[int, int, int, int] | None:
    """A rectangle of random area, ratio of sides and place; None where ten attempts gave none within the image.

    Args:
        size: width and height of the image.
        scale: least and greatest share of the image's area, drawn evenly.
        ratio: least and greatest width to height, drawn evenly by its logarithm.
        draw: gives the random numbers.
    """
    width, height = size
    for area, shape, x, y in torch.rand(_ATTEMPTS, 4, generator=draw).tolist():
        pixels = width * height * (scale[0] + area * (scale[1] - scale[0]))
        sides = ratio[0] * (ratio[1] / ratio[0]) ** shape
        across, down = round(math.sqrt(pixels * sides)), round(math.sqrt(pixels / sides))
        if 0 < across <= width and 0 < down <= height:
            left, top = int(x * (width - across + 1)), int(y * (height - down + 1))
            return left, top, left + across, top + down
    return None


def resized(image: Image.Image, box: Box, shape: tuple[int, int]) -> Image.Image:
    """A part of an image at a batch's height and width, bilinear and without aliasing."""
    return image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR, box=box)


def shifted(image: Image.Image, most: int, draw: torch.Generator) -> Image.Image:
    """An image moved by up to `most` pixels along each side; what comes in is black.

    It is a random crop, of the image's own size, of the image with a border of so many pixels.
    """
    left, top = (torch.randint(2 * most + 1, (2,), generator=draw) - most).tolist()
    return image.crop((left, top, left + image.width, top + image.height))


def flipped(image: Image.Image, probability: float, draw: torch.Generator) -> Image.Image:
    """An image, with left and right exchanged as probably as told."""
    if float(torch.rand((), generator=draw)) < probability:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image
