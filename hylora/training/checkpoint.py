# SPDX-License-Identifier: Apache-2.0
"""Checkpoints on disk: whole or absent, never half, and never silently damaged.

A checkpoint is a folder `step-000100` of safetensors and JSON. It is written under a hidden name, flushed to the disk
and renamed. Its manifest names every file with its size and hash. Sizes are looked at wherever checkpoints are listed,
hashes when one is read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hylora.files import PARTIAL, atomic_folder

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "checkpoint_steps",
    "latest_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
]

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_STATE = "state.json"
_NAME = re.compile(r"step-(\d{6,})")
_DELETED = ".deleted-"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read."""


@dataclass
class Checkpoint:
    """Everything that a run continues from.

    Args:
        step: updates made.
        tensors: named tensors by file, for example `{"weights": {...}, "optimizer": {...}}`.
        state: plain JSON values.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint and delete all but the latest `keep`.

    Args:
        folder: of all checkpoints of the run.
        checkpoint: what to write.
        keep: how many to keep, at least 1.

    Returns:
        Its own folder. One that is already there and undamaged is left as it is.

    Raises:
        CheckpointError: if it could not be written, for example because the disk is full. Earlier ones are untouched.
    """
    target = folder / f"step-{checkpoint.step:06d}"
    if _is_complete(target) and not _damage(target):
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _discard_leftovers(folder)
        with atomic_folder(target) as partial:
            for name, tensors in checkpoint.tensors.items():
                save_file(tensors, partial / f"{name}.safetensors")
            _write_json(partial / _STATE, {"step": checkpoint.step, **checkpoint.state})
            files = {
                path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
                for path in sorted(partial.iterdir())
            }
            _write_json(partial / _MANIFEST, files)
            if target.exists():
                _delete(target)
    except (OSError, SafetensorError) as error:
        steps = checkpoint_steps(folder)
        kept = f"checkpoints of steps {steps} are intact" if steps else "there is no earlier checkpoint"
        raise CheckpointError(
            f"the checkpoint {target} could not be written: {error}; {kept}. Make room on the disk, then go on with "
            "training.resume=true"
        ) from error
    for step in checkpoint_steps(folder)[:-keep]:
        _delete(folder / f"step-{step:06d}")
    return target


def _delete(checkpoint: Path) -> None:
    """Delete a checkpoint so that a crash half-way leaves nothing that looks like one."""
    hidden = checkpoint.with_name(f"{_DELETED}{checkpoint.name}")
    os.rename(checkpoint, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _discard_leftovers(folder: Path) -> None:
    """Remove what a crash left behind."""
    for pattern in (f"{PARTIAL}*", f"{_DELETED}*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints, ascending."""
    return sorted(int(match.group(1)) for match, path in _named_folders(folder) if _is_complete(path))


def _named_folders(folder: Path) -> list[tuple[re.Match, Path]]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return [(match, path) for path in paths if (match := _NAME.fullmatch(path.name))]


def _is_complete(checkpoint: Path) -> bool:
    """Whether every file that the manifest names is there with its size."""
    try:
        files = _read_manifest(checkpoint)
        return all((checkpoint / name).stat().st_size == entry["bytes"] for name, entry in files.items())
    except (OSError, ValueError):
        return False


def _read_manifest(checkpoint: Path) -> dict[str, dict[str, Any]]:
    files = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))
    try:
        if _STATE in files and all({"bytes", "sha256"} <= entry.keys() for entry in files.values()):
            return files
    except (AttributeError, TypeError):
        pass
    raise ValueError(f"{_MANIFEST} is not what a run writes")


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, read to the last byte; None if it is as it was written."""
    try:
        files = _read_manifest(checkpoint)
        changed = [name for name, entry in files.items() if _sha256(checkpoint / name) != entry["sha256"]]
    except (OSError, ValueError) as error:
        return str(error)
    return f"{', '.join(changed)} changed after being written" if changed else None


def latest_checkpoint(folder: Path) -> Path | None:
    """The undamaged checkpoint of the latest step, or None if there is no checkpoint. Every byte is verified.

    Raises:
        CheckpointError: if there are checkpoints, and all of them are damaged.
    """
    # Folders are renamed into place whole, so that one which lacks something is as damaged as one that was changed.
    paths = {int(match.group(1)): path for match, path in _named_folders(folder)}
    for _, path in sorted(paths.items(), reverse=True):
        damage = _damage(path)
        if damage is None:
            return path
        logger.warning("the checkpoint %s is damaged (%s); going back to the one before", path, damage)
    if paths:
        raise CheckpointError(
            f"all checkpoints in {folder} are damaged; delete the folder to train from the start, or bring back a copy"
        )
    return None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint back, its tensors on the CPU.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        tensors = {file.stem: load_file(file) for file in path.glob("*.safetensors")}
        return Checkpoint(state.pop("step"), tensors, state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(
            f"the checkpoint {path} cannot be read: {error}; delete its folder to continue from the one before"
        ) from error
