# SPDX-License-Identifier: Apache-2.0
"""Files in one folder for each class, of images and of whatever else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hylora.words import nearest
from vision_extras.images.data import LazyImages

__all__ = ["Files", "classes_of", "digest_of", "files_below", "list_files", "read_folder"]


@dataclass(frozen=True)
class Files:
    """Files below a folder.

    Args:
        folder: that all of them are below.
        names: relative to it. An array, of which worker processes share one copy.
    """

    folder: str
    names: np.ndarray

    def open(self, number: int) -> str:
        return os.path.join(self.folder, self.names[number])

    def name(self, number: int) -> str:
        return str(self.names[number])

    key = name


def classes_of(folder: Path) -> tuple[str, ...]:
    """The classes that can be learned from a folder.

    Raises:
        ValueError: if there are none or one.
    """
    classes = _folders_in(folder)
    if len(classes) < 2:
        raise ValueError(
            f"path={str(folder)!r} must hold a folder of files for each of at least two classes, and holds "
            f"{len(classes)}: {', '.join(classes) or 'no folder'}"
        )
    return classes


def read_folder(folder: Path, classes: tuple[str, ...], channels: int) -> LazyImages:
    """The images of every class, in alphabetical order; those whose ending PIL knows.

    Args:
        folder: as in `list_files`.
        classes: as in `list_files`.
        channels: of the decoded images.

    Raises:
        ValueError: as `list_files`.
    """
    files, labels, digest = list_files(folder, classes, Image.registered_extensions(), "image whose ending PIL knows")
    return LazyImages(files, torch.arange(len(labels)), torch.tensor(labels), channels, digest)


def list_files(
    folder: Path, classes: tuple[str, ...], endings: Container[str], what: str
) -> tuple[Files, list[int], str]:
    """The files of every class, in alphabetical order. Only names, sizes and times of change are read.

    Args:
        folder: with a folder for each class, which may have folders itself; nothing hidden counts.
        classes: that there are; the folder may lack some.
        endings: of the files that count, in small letters and with a dot.
        what: such a file, for people.

    Returns:
        The files, the label of each, and a digest that says which they are, in which state.

    Raises:
        ValueError: if the folder has no class, one that is none of `classes`, or one without such a file.
    """
    present = _folders_in(folder)
    unknown = sorted(set(present) - set(classes))
    if not present:
        raise ValueError(f"path={str(folder)!r} has no folder of a class")
    if unknown:
        raise ValueError(
            f"path={str(folder)!r} has class {unknown[0]!r}, which there is not to learn from; the nearest is "
            f"{nearest(unknown[0], classes)}"
        )
    states, labels = [], []
    for name in present:
        found = sorted(files_below(folder / name, endings))
        if not found:
            raise ValueError(f"path={str(folder / name)!r} has no {what}; put some there, or remove it")
        states += [(os.path.relpath(path, folder), *state) for path, *state in found]
        labels += [classes.index(name)] * len(found)
    return Files(str(folder), np.array([name for name, *_ in states])), labels, digest_of(states)


def digest_of(states: Iterable[tuple[str, int, int]]) -> str:
    """Says which files there are, in which state: of each its name, bytes and time of change."""
    digest = hashlib.sha256()
    for name, size, changed in states:
        digest.update(f"{name}\0{size}\0{changed}\n".encode())
    return digest.hexdigest()


def _folders_in(folder: Path) -> tuple[str, ...]:
    """In alphabetical order."""
    if not folder.is_dir():
        raise ValueError(f"path={str(folder)!r} is no folder")
    return tuple(sorted(entry.name for entry in _visible(folder) if entry.is_dir()))


def _visible(folder: Path) -> Iterator[os.DirEntry]:
    """All but hidden ones, which editors and systems leave behind: `.ipynb_checkpoints`, `._1.jpg`."""
    return (entry for entry in os.scandir(folder) if not entry.name.startswith("."))


def files_below(folder: Path, endings: Container[str]) -> Iterator[tuple[str, int, int]]:
    """Path, bytes and time of change of every file with one of the endings; nothing hidden counts.

    Args:
        folder: that they are below.
        endings: in small letters and with a dot.
    """
    for entry in _visible(folder):
        if entry.is_dir():
            yield from files_below(Path(entry.path), endings)
        elif os.path.splitext(entry.name)[1].lower() in endings:
            # A link that leads nowhere stands for itself, and is named with the files that cannot be read.
            state = entry.stat(follow_symlinks=entry.is_file())
            yield entry.path, state.st_size, state.st_mtime_ns
