# SPDX-License-Identifier: Apache-2.0
"""Which resolutions a network takes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

__all__ = ["check_sides"]


def check_sides(network: nn.Module, shapes: Iterable[tuple[int, int]], channels: int, classes: int) -> None:
    """Refuse resolutions that a network cannot take, before anything is trained at them.

    It knows its own `stride`, the least height and width that make sense, and `multiple`, of which they must be
    multiples; both are 1 where it has none. The smallest shape is tried on a blank image.

    Args:
        network: from images to logits.
        shapes: heights and widths, in pixels.
        channels: of the images.
        classes: to tell apart.

    Raises:
        ValueError: naming the shape and what the network takes.
    """
    shapes = sorted(set(shapes), key=lambda shape: (min(shape), max(shape)))
    stride, multiple = getattr(network, "stride", 1), getattr(network, "multiple", 1)
    for height, width in shapes:
        if min(height, width) < stride:
            raise ValueError(
                f"images of {height}x{width} pixels are below the network's stride, {stride}; use larger ones"
            )
        if height % multiple or width % multiple:
            raise ValueError(
                f"images of {height}x{width} pixels must have sides that are multiples of {multiple}, the network's "
                "patch"
            )
    height, width = shapes[0]
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            logits = network(torch.zeros(1, channels, height, width))
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise ValueError(
            f"an image of {channels}x{height}x{width} makes the network fail: {error}; use larger ones, or look at "
            "what the network needs"
        ) from error
    finally:
        network.train(training)
    found = tuple(getattr(logits, "shape", ()))
    if found != (1, classes):
        raise ValueError(f"the network gives {found} for an image, and must give logits of shape (1, {classes})")
