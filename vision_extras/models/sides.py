# SPDX-License-Identifier: Apache-2.0
"""Which resolutions a network takes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from hylora.training.evaluation import evaluation_mode

__all__ = ["check_logits", "check_sides"]


def check_sides(network: nn.Module, shapes: Iterable[tuple[int, int]]) -> None:
    """Refuse resolutions that a network cannot take.

    It knows its own `stride`, the least height and width that make sense, and `multiple`, of which they must be
    multiples; both are 1 where it has none.

    Args:
        network: from images to logits; it may be on the meta device.
        shapes: heights and widths, in pixels.

    Raises:
        ValueError: naming the shape and what the network takes.
    """
    stride, multiple = getattr(network, "stride", 1), getattr(network, "multiple", 1)
    for height, width in shapes:
        if min(height, width) < stride:
            raise ValueError(
                f"images of {height}x{width} pixels are below the network's stride, {stride}; use larger ones"
            )
        if height % multiple or width % multiple:
            raise ValueError(
                f"images of {height}x{width} pixels must have sides that are multiples of {multiple}; set "
                "sampler.multiple to that, or to one of its multiples"
            )


def check_logits(network: nn.Module, shape: tuple[int, int], channels: int, classes: int) -> None:
    """Try a network on a blank image.

    Args:
        network: from images to logits.
        shape: height and width of the image, in pixels.
        channels: of the image.
        classes: to tell apart.

    Raises:
        ValueError: if it fails, or gives something else than logits.
    """
    image = torch.zeros(1, channels, *shape)
    try:
        with evaluation_mode(network), torch.no_grad():
            logits = network(image)
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        height, width = shape
        raise ValueError(f"the network fails on an image of {channels}x{height}x{width}: {error}") from error
    found = tuple(getattr(logits, "shape", ()))
    if found != (1, classes):
        raise ValueError(f"the network gives {found} for an image, and must give logits of shape (1, {classes})")
