# SPDX-License-Identifier: Apache-2.0
"""Images that the library `datasets` reads, from the Hub or from disk."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch

from hylora.words import nearest
from vision_extras.images.data import LazyImages

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["EncodedColumn", "check_column", "open_split", "read_dataset", "read_labels"]


@dataclass(frozen=True)
class EncodedColumn:
    """The images of a dataset's column, as they are stored.

    Args:
        rows: whose images are not decoded by the library, so that one that cannot be is known by its number.
        column: of the images.
        what: the dataset, for people.
    """

    rows: Dataset
    column: str
    what: str

    def open(self, number: int) -> str | BinaryIO:
        stored = self.rows[number][self.column]
        return io.BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"]

    def name(self, number: int) -> str:
        return f"{self.key(number)} of {self.what}"

    def key(self, number: int) -> str:
        return f"row {number}"


def open_split(path: str, config: str | None, split: str) -> Dataset:
    """A split of a dataset.

    Args:
        path: a name on the Hub, a folder that `datasets` can load, or one that `save_to_disk` wrote.
        config: of a dataset that has several.
        split: its name.

    Raises:
        ValueError: if it cannot be had.
    """
    from datasets import Dataset, load_dataset, load_from_disk
    from datasets.exceptions import DatasetsError

    saved = any(Path(path, name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        found = load_from_disk(path) if saved else load_dataset(path, config, split=split)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise ValueError(f"path={path!r} cannot be read as a dataset with a split {split!r}: {error}") from error
    if isinstance(found, Dataset):
        return found
    if split not in found:
        raise ValueError(
            f"path={path!r} has no split {split!r}, but {', '.join(found)}; the nearest is {nearest(split, found)}"
        )
    return found[split]


def read_dataset(
    rows: Dataset, what: str, image_column: str, label_column: str, channels: int, classes: tuple[str, ...] | None
) -> tuple[LazyImages, tuple[str, ...]]:
    """The images of a dataset. Only its labels are read.

    Args:
        rows: of the dataset.
        what: the dataset, for people.
        image_column: of type `Image`.
        label_column: whole numbers from 0, or names.
        channels: of the decoded images.
        classes: that there are to learn from; None if these rows say it.

    Returns:
        The images, and the names of their labels.

    Raises:
        ValueError: if a column is missing or of another type, or a label is none or not one of the classes.
    """
    from datasets import Image

    check_column(rows, what, "image_column", image_column)
    check_column(rows, what, "label_column", label_column)
    if not isinstance(rows.features[image_column], Image):
        raise ValueError(
            f"image_column={image_column!r} of {what} must hold images, not {rows.features[image_column]}"
        )
    labels, named = read_labels(rows, what, label_column, classes)
    encoded = EncodedColumn(rows.cast_column(image_column, Image(decode=False)), image_column, what)
    images = LazyImages(encoded, torch.arange(len(labels)), torch.from_numpy(labels), channels, rows._fingerprint)
    return images, named


def check_column(rows: Dataset, what: str, field: str, column: str) -> None:
    """Refuse a column that a dataset does not have.

    Args:
        rows: of the dataset.
        what: the dataset, for people.
        field: of the recipe, that names the column.
        column: its name.

    Raises:
        ValueError: if there is none of this name.
    """
    if column not in rows.column_names:
        raise ValueError(
            f"{field}={column!r} is no column of {what}, but {', '.join(rows.column_names)} are; the nearest is "
            f"{nearest(column, rows.column_names)}"
        )


def read_labels(
    rows: Dataset, what: str, label_column: str, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The labels of a dataset, [N] in int64, and their names.

    Args:
        rows: of the dataset.
        what: the dataset, for people.
        label_column: whole numbers from 0, or names.
        classes: that there are to learn from; None if these rows say it.

    Raises:
        ValueError: if a label is none, or not one of the classes, or there are fewer than two classes.
    """
    from datasets import ClassLabel

    values = rows.select_columns(label_column)[:][label_column]
    known = rows.features[label_column]
    named = tuple(known.names) if isinstance(known, ClassLabel) else None
    kind = str if isinstance(next(iter(values), None), str) else int
    other = next((number for number, value in enumerate(values) if type(value) is not kind), None)
    if other is not None:
        raise ValueError(
            f"label_column={label_column!r} of {what} has {values[other]!r} in row {other}, and labels are whole "
            "numbers from 0, or names; leave such rows out or name another column"
        )
    if kind is int:
        labels = np.array(values, dtype=np.int64)
        named = named or classes or tuple(map(str, range(labels.max(initial=-1) + 1)))
    else:
        named = classes or tuple(sorted(set(values)))
        numbers = {name: number for number, name in enumerate(named)}
        labels = np.array([numbers.get(value, -1) for value in values], dtype=np.int64)
    if classes is not None and named != classes:
        raise ValueError(
            f"label_column={label_column!r} of {what} has classes {_some(named)}, and those to learn from are "
            f"{_some(classes)}"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= len(named)))
    if len(wrong):
        raise ValueError(
            f"label_column={label_column!r} of {what} has label {values[wrong[0]]!r} in row {wrong[0]}, and "
            f"there are {len(named)} classes"
        )
    if len(set(labels.tolist())) < 2 and classes is None:
        raise ValueError(f"label_column={label_column!r} of {what} must have at least two classes")
    return labels, named


def _some(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:5]) + (" ..." if len(classes) > 5 else "")
