# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent, never half."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["PARTIAL", "flush", "write_atomically"]

# How the names of files and folders begin that are still being written.
PARTIAL = ".partial-"


def write_atomically(path: str | os.PathLike, data: str | bytes) -> None:
    """Write a file in one step: a reader sees the old content or the whole new one, also after a power cut.

    Args:
        path: of the file; its folder must exist.
        data: its new content; text is written as UTF-8.

    Raises:
        OSError: if it cannot be written. The old content is untouched.
    """
    path = Path(path)
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    try:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
        flush(partial)
        os.replace(partial, path)
        flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Make a file's content, or a folder's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
