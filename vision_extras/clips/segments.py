# SPDX-License-Identifier: Apache-2.0
"""Clips cut from videos of YouTube, that tables list by the video's id; many of the videos are gone."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np

from vision_extras.clips.clip import ClipSplit
from vision_extras.clips.encoded import EncodedClips
from vision_extras.clips.folders import ENDINGS, VIDEOS
from vision_extras.clips.recipe import ClipsRecipe
from vision_extras.images.folder import Files, digest_of, files_below

__all__ = ["read_audioset", "read_vggsound"]

# Characters of a video's id.
_ID = 11

# Id and labels of each clip.
_Listed = list[tuple[str, tuple[int, ...]]]


def read_audioset(recipe: ClipsRecipe, video: bool) -> ClipSplit:
    """AudioSet (Gemmeke et al., 2017): `class_labels_indices.csv`, `SPLIT_segments.csv`, and clips in any folder.

    A clip's file is one of ten seconds, cut already, whose name begins with the video's id. Clips may have several
    labels. Those without a file are left out, and counted.

    Args:
        recipe: of the clips.
        video: whether their frames are wanted too; then a file is one of video.

    Raises:
        ValueError: if a table cannot be read, has a class that is not in the table of these, or no clip has a file.
    """
    table = Path(recipe.path, "class_labels_indices.csv")
    classes = {row[1]: row[2] for row in _table(recipe, table, 3)[1:]}
    numbers = {code: number for number, code in enumerate(classes)}

    def read(split: str) -> _Listed:
        listed = []
        for name in split.split("+"):
            segments = Path(recipe.path, f"{name}_segments.csv")
            for clip, _, _, codes in _table(recipe, segments, 4):
                unknown = next((code for code in codes.split(",") if code not in numbers), None)
                if unknown is not None:
                    raise ValueError(f"path={recipe.path!r}: {segments} has {unknown!r}, which {table} lacks")
                listed.append((clip, tuple(sorted(numbers[code] for code in codes.split(",")))))
        return listed

    splits = [(name, read(name)) for name in (recipe.train_split or "balanced_train", recipe.held_out_split or "eval")]
    return _split(recipe, video, *splits, classes=tuple(classes.values()), multilabel=True)


def read_vggsound(recipe: ClipsRecipe, video: bool) -> ClipSplit:
    """VGGSound (Chen et al., 2020): `vggsound.csv` of id, start, label and split, and clips in any folder.

    A clip's file is one of ten seconds, cut already, whose name begins with the video's id. Those without a file are
    left out, and counted.

    Args:
        recipe: of the clips.
        video: whether their frames are wanted too; then a file is one of video.

    Raises:
        ValueError: if the table cannot be read or lacks a split, or no clip has a file.
    """
    rows = _table(recipe, Path(recipe.path, "vggsound.csv"), 4)
    classes = tuple(sorted({label for _, _, label, _ in rows}))
    numbers = {name: number for number, name in enumerate(classes)}
    splits = [
        (name, [(clip, (numbers[label],)) for clip, _, label, split in rows if split == name])
        for name in (recipe.train_split or "train", recipe.held_out_split or "test")
    ]
    return _split(recipe, video, *splits, classes=classes, multilabel=False)


def _table(recipe: ClipsRecipe, path: Path, columns: int) -> list[list[str]]:
    """The rows of a table, without comments."""
    try:
        with path.open(newline="") as file:
            rows = [row for row in csv.reader(file, skipinitialspace=True) if row and not row[0].startswith("#")]
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"path={recipe.path!r}: {path} cannot be read: {error}") from error
    wrong = next((row for row in rows if len(row) != columns), None)
    if wrong is not None:
        raise ValueError(f"path={recipe.path!r}: {path} must have {columns} columns, and has a row {wrong}")
    return rows


def _split(
    recipe: ClipsRecipe,
    video: bool,
    train: tuple[str, _Listed],
    held_out: tuple[str, _Listed],
    classes: tuple[str, ...],
    multilabel: bool,
) -> ClipSplit:
    """Clips of two lists that have a file."""
    endings, kind = (VIDEOS, "video") if video else (ENDINGS, "file")
    there: dict[str, tuple[str, int, int]] = {}
    for path, *state in sorted(files_below(Path(recipe.path), endings)):
        there.setdefault(os.path.basename(path)[:_ID], (os.path.relpath(path, recipe.path), *state))
    sides, left_out = [], []
    for split, listed in (train, held_out):
        found = [(there[clip], labels) for clip, labels in listed if clip in there]
        if not found:
            raise ValueError(
                f"path={recipe.path!r} has a {kind} for none of {len(listed)} clips of the split {split!r}; name "
                "files by the ids of their videos"
            )
        if len(found) < len(listed):
            missing = len(listed) - len(found)
            left_out.append(f"{missing} of {len(listed)} clips of {split} have no {kind} below {recipe.path}")
        states, labels = zip(*found, strict=True)
        files = Files(recipe.path, np.array([name for name, *_ in states]))
        sides.append(EncodedClips(files, files, np.arange(len(found)), labels, recipe.resample, digest_of(states)))
    return ClipSplit(*sides, classes, multilabel, tuple(left_out))
