# SPDX-License-Identifier: Apache-2.0
"""Image files in one folder for each class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hylora.words import nearest
from vision_extras.images.data import LazyImages

__all__ = ["Files", "classes_of", "read_folder"]


@dataclass(frozen=True)
class Files:
    """Image files below a folder.

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
            f"path={str(folder)!r} must hold a folder of images for each of at least two classes, and holds "
            f"{len(classes)}: {', '.join(classes) or 'no folder'}"
        )
    return classes


def read_folder(folder: Path, classes: tuple[str, ...], channels: int) -> LazyImages:
    """The images of every class, in alphabetical order. Only names, sizes and times of change are read.

    Args:
        folder: with a folder for each class, which may have folders itself. Files count whose ending PIL knows, and
            nothing hidden.
        classes: that there are; the folder may lack some.
        channels: of the decoded images.

    Raises:
        ValueError: if it has none, one that is no class, or one without an image.
    """
    present = _folders_in(folder)
    unknown = sorted(set(present) - set(classes))
    if not present:
        raise ValueError(f"path={str(folder)!r} has no folder of images")
    if unknown:
        raise ValueError(
            f"path={str(folder)!r} has class {unknown[0]!r}, which there is not to learn from; the nearest is "
            f"{nearest(unknown[0], classes)}"
        )
    names, labels, digest = [], [], hashlib.sha256()
    for name in present:
        found = sorted(_images_below(folder / name))
        if not found:
            raise ValueError(
                f"path={str(folder / name)!r} has no image whose ending PIL knows; put some there, or remove it"
            )
        for path, size, changed in found:
            names.append(os.path.relpath(path, folder))
            digest.update(f"{names[-1]}\0{size}\0{changed}\n".encode())
        labels += [classes.index(name)] * len(found)
    files = Files(str(folder), np.array(names))
    return LazyImages(files, torch.arange(len(names)), torch.tensor(labels), channels, digest.hexdigest())


def _folders_in(folder: Path) -> tuple[str, ...]:
    """In alphabetical order."""
    if not folder.is_dir():
        raise ValueError(f"path={str(folder)!r} is no folder")
    return tuple(sorted(entry.name for entry in _visible(folder) if entry.is_dir()))


def _visible(folder: Path) -> Iterator[os.DirEntry]:
    """All but hidden ones, which editors and systems leave behind: `.ipynb_checkpoints`, `._1.jpg`."""
    return (entry for entry in os.scandir(folder) if not entry.name.startswith("."))


def _images_below(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Path, bytes and time of change of every file that may be an image."""
    endings = Image.registered_extensions()
    for entry in _visible(folder):
        if entry.is_dir():
            yield from _images_below(Path(entry.path))
        elif os.path.splitext(entry.name)[1].lower() in endings:
            # A link that leads nowhere stands for itself, and is named with the images that cannot be read.
            state = entry.stat(follow_symlinks=entry.is_file())
            yield entry.path, state.st_size, state.st_mtime_ns
