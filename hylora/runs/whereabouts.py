# SPDX-License-Identifier: Apache-2.0
"""Where a model is: in a folder here, or on the hub."""

from __future__ import annotations

from pathlib import Path

__all__ = ["check_exists"]


def check_exists(folder: str) -> None:
    """Refuse a folder that is not there, before anyone looks for it on the hub.

    Raises:
        FileNotFoundError: if `folder` looks like a path and does not exist.
    """
    # A hub id has the form "owner/name" or "name"; anything that looks more like a path must exist here. So must what
    # lies in a folder that is here: the hub would be asked for a misspelt path in vain, and slowly.
    within = "/" in folder and Path(folder).parent.is_dir()
    looks_like_path = folder.startswith((".", "/", "~")) or folder.count("/") > 1 or within
    if looks_like_path and not Path(folder).is_dir():
        raise FileNotFoundError(
            f"folder {folder!r} does not exist; give a run's folder, a model folder or a hub id (owner/name)"
        )
