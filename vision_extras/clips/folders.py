# SPDX-License-Identifier: Apache-2.0
"""Files of sound or video whose class a folder or a table says."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vision_extras.clips.clip import ClipSplit
from vision_extras.clips.encoded import EncodedClips
from vision_extras.clips.recipe import ClipsRecipe
from vision_extras.images.folder import Files, classes_of, digest_of, list_files

__all__ = ["ENDINGS", "VIDEOS", "read_esc50", "read_folder", "read_speech_commands"]

# Of files that have sound, and of those that have frames too.
_SOUNDS = (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
ENDINGS = frozenset(_SOUNDS + VIDEOS)


def read_folder(recipe: ClipsRecipe) -> ClipSplit:
    """Clips in one folder for each class; of `held_out_split`, or a share of them by their names, is held out.

    Raises:
        ValueError: if there are no two classes, one is not there to learn from, or one has no clip.
    """
    folder = Path(recipe.path, recipe.train_split or "")
    classes = classes_of(folder)

    def read(folder: Path) -> EncodedClips:
        files, labels, digest = list_files(folder, classes, ENDINGS, "file whose ending is one of sound or video")
        return _clips(files, labels, recipe, digest)

    if recipe.held_out_split is None:
        return ClipSplit(*read(folder).cut(recipe.held_out), classes)
    return ClipSplit(read(folder), read(Path(recipe.path, recipe.held_out_split)), classes)


def read_esc50(recipe: ClipsRecipe) -> ClipSplit:
    """ESC-50 (Piczak, 2015): `meta/esc50.csv` and `audio/`; one of its five folds is held out.

    Raises:
        ValueError: if the table cannot be read, or a file is missing.
    """
    table = Path(recipe.path, "meta", "esc50.csv")
    try:
        with table.open(newline="") as file:
            rows = [
                (row["filename"], int(row["fold"]), int(row["target"]), row["category"])
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"path={recipe.path!r}: {table} cannot be read as ESC-50's table: {error!r}") from error
    names = {target: category for _, _, target, category in rows}
    targets = sorted(names)
    labels = [targets.index(target) for _, _, target, _ in rows]
    clips = _listed(Path(recipe.path, "audio"), [name for name, *_ in rows], labels, recipe)
    held_out = np.array([fold == recipe.fold for _, fold, *_ in rows], dtype=bool)
    if not held_out.any():
        raise ValueError(f"fold={recipe.fold} has no clip in {table}")
    return ClipSplit(clips.select(~held_out), clips.select(held_out), tuple(names[target] for target in targets))


def read_speech_commands(recipe: ClipsRecipe) -> ClipSplit:
    """Speech Commands (Warden, 2018): a folder for each word, `validation_list.txt` and `testing_list.txt`.

    Neither list is learned from. Folders that begin with an underscore are of noise, and no class.

    Raises:
        ValueError: if a list cannot be read, there are no words, or a listed file is missing.
    """
    folder = Path(recipe.path)
    split = recipe.held_out_split or "testing"
    lists: dict[str, list[str]] = {}
    for name in ("validation", "testing"):
        try:
            lists[name] = (folder / f"{name}_list.txt").read_text().split()
        except OSError as error:
            raise ValueError(f"path={recipe.path!r} has no list of its split {name!r}: {error}") from error
    if split not in lists:
        raise ValueError(f"held_out_split={split!r} must be validation or testing")
    kept = {*lists["validation"], *lists["testing"]}
    there = sorted(file.relative_to(folder).as_posix() for file in folder.glob("[!._]*/*.wav"))
    classes = tuple(sorted({name.split("/")[0] for name in there}))
    if len(classes) < 2:
        raise ValueError(f"path={recipe.path!r} must hold a folder of wav files for each of at least two words")

    def read(names: list[str]) -> EncodedClips:
        unknown = next((name for name in names if name.split("/")[0] not in classes), None)
        if unknown is not None:
            raise ValueError(f"path={recipe.path!r} has no file {unknown!r}, which a list of its splits names")
        return _listed(folder, names, [classes.index(name.split("/")[0]) for name in names], recipe)

    return ClipSplit(read([name for name in there if name not in kept]), read(lists[split]), classes)


def _listed(folder: Path, names: list[str], labels: list[int], recipe: ClipsRecipe) -> EncodedClips:
    """Files that are named one by one."""
    states = []
    for name in names:
        try:
            state = (folder / name).stat()
        except OSError as error:
            raise ValueError(f"path={recipe.path!r} lacks a file that is listed: {error}") from error
        states.append((name, state.st_size, state.st_mtime_ns))
    return _clips(Files(str(folder), np.array(names, dtype=str)), labels, recipe, digest_of(states))


def _clips(files: Files, labels: Sequence[int], recipe: ClipsRecipe, digest: str) -> EncodedClips:
    numbers = np.arange(len(labels))
    return EncodedClips(files, files, numbers, [(label,) for label in labels], recipe.resample, digest)
