# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "PARTIAL",
    "apply_umask",
    "atomic_file",
    "atomic_folder",
    "check_target",
    "disk_errors",
    "flush",
    "write_atomically",
]

# How the names of files and folders begin that are still being written.
PARTIAL = ".partial-"


def check_target(path: str | os.PathLike) -> None:
    """Refuse a file that can't be written for want of its folder, before the work whose result it is to hold.

    Raises:
        FileNotFoundError: if its folder does not exist.
        IsADirectoryError: if it is a folder itself.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{os.fspath(path)!r} is a folder; name a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{os.fspath(path)!r} cannot be written: make the folder {str(path.parent)!r} first")


def write_atomically(path: str | os.PathLike, data: str | bytes) -> None:
    """Write a file in one step: a reader, also after a crash, sees the old one or the whole new one.

    Args:
        path: of the file; its folder exists.
        data: the content; text is written as UTF-8.

    Raises:
        OSError: if it cannot be written; the file is then as it was.
    """
    with atomic_file(path) as file:
        file.write(data if isinstance(data, bytes) else data.encode())


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write, which becomes `path` at the end of the block, and nothing if the block fails.

    Args:
        path: of the file; its folder exists.

    Raises:
        OSError: if it cannot be written; the file is then as it was.
    """
    path = Path(path)
    partial = path.with_name(f"{PARTIAL}{path.name}-{secrets.token_hex(4)}")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        flush(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def flush(path: str | os.PathLike) -> None:
    """Make a file's content, or a folder's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A folder to fill, which becomes `path` at the end of the block, to stay, and nothing if the block fails.

    Args:
        path: of the folder to create; an empty one may be there.

    Raises:
        OSError: if it cannot be written.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, so that moving it there is one step.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{PARTIAL}{path.name}-") as name, disk_errors(path):
        partial = Path(name) / path.name
        partial.mkdir()
        yield partial
        apply_umask(partial)
        for written in (*partial.rglob("*"), partial):
            flush(written)
        os.rename(partial, path)
        flush(path.parent)


@contextmanager
def disk_errors(path: str | os.PathLike) -> Iterator[None]:
    """Raise an OSError for every failure of the disk: safetensors and tokenizers have types of their own for it.

    Args:
        path: what is written, for the message.
    """
    try:
        yield
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), os.fspath(path)) from error


def apply_umask(folder: str | os.PathLike) -> None:
    """Give the files in a folder the permissions of a new file: safetensors writes for the owner alone."""
    probe = Path(folder) / f".{secrets.token_hex(4)}"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for path in Path(folder).iterdir():
        if path.is_file():
            path.chmod(mode)
