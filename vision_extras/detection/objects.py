# SPDX-License-Identifier: Apache-2.0
"""Images in which objects are marked, whatever they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from PIL import Image
from torch import Tensor

__all__ = ["Marked", "ObjectRows", "ObjectSplit"]


class Marked(NamedTuple):
    """An image and its objects.

    Args:
        image: of any size.
        boxes: [N, 4] in float32: left, top, right and bottom, as shares of the image's width and height.
        labels: [N] in int64.
    """

    image: Image.Image
    boxes: Tensor
    labels: Tensor


class ObjectRows(Protocol):
    """Images with their objects, map-style."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Marked: ...

    def fingerprint(self) -> str:
        """A hash of all that is there, in its order."""


@dataclass(frozen=True)
class ObjectSplit:
    """Images to train on, and images held out.

    Args:
        train: to learn from.
        held_out: to evaluate on.
        classes: the name of each label.
    """

    train: ObjectRows
    held_out: ObjectRows
    classes: tuple[str, ...]
