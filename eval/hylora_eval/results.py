# SPDX-License-Identifier: Apache-2.0
"""Result files: JSON, written in one step, never over another by accident."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["check_output", "save_result"]


def check_output(path: str | os.PathLike, overwrite: bool = False) -> Path:
    """Check before a long evaluation that its result can be written.

    Args:
        path: of the result file; its folder is made.
        overwrite: whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        ValueError: if the file exists and may not be replaced, or `path` is a folder.
        OSError: if the folder cannot be made.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"output {str(path)!r} is a folder; give the name of a file in it, such as ppl.json")
    if path.exists() and not overwrite:
        raise ValueError(f"output {str(path)!r} exists; choose another name or allow overwriting")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save_result(path: str | os.PathLike, values: dict[str, Any]) -> None:
    """Write a result file; a reader sees the old file or the whole new one.

    Args:
        path: of the file, in an existing folder.
        values: plain JSON types.

    Raises:
        OSError: if it cannot be written; an older file is still there then.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
