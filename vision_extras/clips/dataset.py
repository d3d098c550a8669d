# SPDX-License-Identifier: Apache-2.0
"""Clips that the library `datasets` reads, from the Hub or from disk, as they are stored there."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from vision_extras.clips.clip import ClipSplit
from vision_extras.clips.encoded import EncodedClips
from vision_extras.clips.recipe import ClipsRecipe
from vision_extras.images.dataset import EncodedColumn, check_column, open_split, read_labels

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["read_clip_dataset"]


def read_clip_dataset(recipe: ClipsRecipe, video: bool) -> ClipSplit:
    """The clips of a dataset. Only labels are read: of each clip one, or a list of them.

    Args:
        recipe: of the clips.
        video: whether their frames are wanted too.

    Raises:
        ValueError: if the dataset cannot be had, a column is missing or of another type, or a label is none or not one
            of the classes.
    """
    train, classes, multilabel = _read(recipe, recipe.train_split or "train", video, None)
    if recipe.held_out_split is None:
        return ClipSplit(*train.cut(recipe.held_out), classes, multilabel)
    held_out = _read(recipe, recipe.held_out_split, video, classes)[0]
    return ClipSplit(train, held_out, classes, multilabel)


def _read(
    recipe: ClipsRecipe, split: str, video: bool, classes: tuple[str, ...] | None
) -> tuple[EncodedClips, tuple[str, ...], bool]:
    rows = open_split(recipe.path, recipe.config, split)
    what = f"{split} of {recipe.path!r}"
    sounds = _encoded(rows, what, "sound_column", recipe.sound_column)
    pictures = _encoded(rows, what, "video_column", recipe.video_column) if video else None
    if video and recipe.video_column == recipe.sound_column:
        pictures = sounds  # of which a clip reads its row once
    labels, classes, multilabel = _labels(rows, what, recipe.label_column, classes)
    numbers = np.arange(len(rows))
    clips = EncodedClips(sounds, pictures, numbers, labels, recipe.resample, rows._fingerprint)
    return clips, classes, multilabel


def _encoded(rows: Dataset, what: str, field: str, column: str) -> EncodedColumn:
    from datasets import Audio, Video

    check_column(rows, what, field, column)
    kinds = (Audio, Video) if field == "sound_column" else (Video,)
    if not isinstance(rows.features[column], kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{field}={column!r} of {what} must be of type {names}, not {rows.features[column]}")
    encoded = rows.select_columns(column).cast_column(column, type(rows.features[column])(decode=False))
    return EncodedColumn(encoded, column, what)


def _labels(
    rows: Dataset, what: str, column: str | None, classes: tuple[str, ...] | None
) -> tuple[list[tuple[int, ...]], tuple[str, ...], bool]:
    """Of each clip, with the names of all, and whether a clip may have several."""
    from datasets import Dataset, Features, List

    if column is None:
        return [()] * len(rows), (), False
    check_column(rows, what, "label_column", column)
    if not isinstance(rows.features[column], List):
        labels, classes = read_labels(rows, what, column, classes)
        return [(label,) for label in labels.tolist()], classes, False
    lists = rows.select_columns(column)[:][column]
    features = Features({column: rows.features[column].feature})
    all_of_them = Dataset.from_dict({column: [label for labels in lists for label in labels]}, features)
    numbers, classes = read_labels(all_of_them, f"all lists, one after another, in {what}", column, classes)
    left = iter(numbers.tolist())
    return [tuple(sorted(islice(left, len(labels)))) for labels in lists], classes, True
