# SPDX-License-Identifier: Apache-2.0
"""Checkpoints on disk: whole or absent, never half.

A checkpoint is a folder `step-000100` of safetensors and JSON. It is written under a hidden name, flushed to the disk
and renamed; the manifest names every file with its size, so that a folder damaged later is not taken for whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "checkpoint_steps",
    "latest_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
]

_MANIFEST = "manifest.json"
_STATE = "state.json"
_NAME = re.compile(r"step-(\d{6,})")


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
        Its own folder. One that is already there and complete is left as it is.

    Raises:
        CheckpointError: if it could not be written, for example because the disk is full. Earlier ones are untouched.
    """
    target = folder / f"step-{checkpoint.step:06d}"
    if _is_complete(target):
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _discard_leftovers(folder)
        with _new_folder(folder, target) as partial:
            for name, tensors in checkpoint.tensors.items():
                save_file(tensors, partial / f"{name}.safetensors")
            _write_json(partial / _STATE, {"step": checkpoint.step, **checkpoint.state})
            sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
            _write_json(partial / _MANIFEST, sizes)
            for path in partial.iterdir():
                _flush(path)
            _flush(partial)
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


@contextlib.contextmanager
def _new_folder(parent: Path, target: Path) -> Iterator[Path]:
    """A hidden folder that takes the place of `target` when the block ends well and vanishes when it does not."""
    partial = parent / f".partial-{target.name}"
    partial.mkdir()
    try:
        yield partial
        if target.exists():
            _delete(target)
        os.rename(partial, target)
        _flush(parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _delete(checkpoint: Path) -> None:
    """Delete a checkpoint so that a crash half-way leaves nothing that looks like one."""
    hidden = checkpoint.with_name(f".deleted-{checkpoint.name}")
    os.rename(checkpoint, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _discard_leftovers(folder: Path) -> None:
    """Remove what a crash left behind."""
    for pattern in (".partial-*", ".deleted-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _flush(path: Path) -> None:
    """Make a file's content, or a folder's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints, ascending."""
    if not folder.is_dir():
        return []
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted(int(match.group(1)) for match, path in matches if match and _is_complete(path))


def _is_complete(checkpoint: Path) -> bool:
    """Whether every file that the manifest names is there with its size."""
    try:
        sizes = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def latest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the latest step, or None."""
    steps = checkpoint_steps(folder)
    return folder / f"step-{steps[-1]:06d}" if steps else None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint back, its tensors on the CPU.

    Raises:
        CheckpointError: if it is damaged.
    """
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        tensors = {file.stem: load_file(file) for file in path.glob("*.safetensors")}
        return Checkpoint(state.pop("step"), tensors, state)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"the checkpoint {path} cannot be read: {error}; delete its folder to continue from the one before"
        ) from error
