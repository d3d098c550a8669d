# SPDX-License-Identifier: Apache-2.0
"""RandAugment (Cubuk et al. 2020): operations drawn evenly for each image, all of them at one strength."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image, ImageEnhance, ImageOps

__all__ = ["OPERATIONS", "STRONGEST", "randaugment"]

# The magnitude at which each operation is as strong as it gets.
STRONGEST = 30

_BILINEAR = Image.Resampling.BILINEAR


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    """Moved about the upper left corner; what comes in is black."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=_BILINEAR)


def _enhance(kind: type, share: float) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, strength: kind(image).enhance(1 + share * strength)


# By name, from an image and a strength to an image. Strengths go from 0 to 1; those of geometry and enhancement are
# as likely negative.
OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, strength: image,
    "shear_x": lambda image, strength: _affine(image, 1, 0.3 * strength, 0, 0, 1, 0),
    "shear_y": lambda image, strength: _affine(image, 1, 0, 0, 0.3 * strength, 1, 0),
    "translate_x": lambda image, strength: _affine(image, 1, 0, 0.45 * strength * image.width, 0, 1, 0),
    "translate_y": lambda image, strength: _affine(image, 1, 0, 0, 0, 1, 0.45 * strength * image.height),
    "rotate": lambda image, strength: image.rotate(30 * strength, resample=_BILINEAR),
    "brightness": _enhance(ImageEnhance.Brightness, 0.9),
    "color": _enhance(ImageEnhance.Color, 0.9),
    "contrast": _enhance(ImageEnhance.Contrast, 0.9),
    "sharpness": _enhance(ImageEnhance.Sharpness, 0.9),
    "posterize": lambda image, strength: ImageOps.posterize(image, 8 - round(4 * strength)),
    "solarize": lambda image, strength: ImageOps.solarize(image, round(256 * (1 - strength))),
    "autocontrast": lambda image, strength: ImageOps.autocontrast(image),
    "equalize": lambda image, strength: ImageOps.equalize(image),
}

_ONE_WAY = ("posterize", "solarize")


def randaugment(image: Image.Image, count: int, magnitude: int, draw: torch.Generator) -> Image.Image:
    """An image after some operations at random, one after another.

    Args:
        image: in grey or in colour.
        count: of the operations; one may come up twice.
        magnitude: from 0 to `STRONGEST`.
        draw: gives the random numbers.
    """
    names = list(OPERATIONS)
    for which, sign in torch.rand(count, 2, generator=draw).tolist():
        name = names[int(which * len(names))]
        strength = magnitude / STRONGEST
        image = OPERATIONS[name](image, -strength if sign < 0.5 and name not in _ONE_WAY else strength)
    return image
