# SPDX-License-Identifier: Apache-2.0
"""What a run says of itself: to a person watching, to `metrics.jsonl`, and to experiment trackers."""

from __future__ import annotations

import importlib.util
import json
import logging
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hylora.files import flush, write_atomically
from hylora.pace import Pace
from hylora.training.recipe import RecipeError

__all__ = [
    "EVALUATED",
    "Metrics",
    "ProgressDisplay",
    "check_trackers",
    "flatten",
    "forget_peak",
    "peak_memory",
    "read_metrics",
]

logger = logging.getLogger(__name__)

# How the names of held-out metrics begin in a record.
EVALUATED = "eval_"


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: of the device if it is a GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak(device: torch.device) -> None:
    """Let a GPU's peak begin anew, behind what is no training; a process's own cannot be made to."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


class ProgressDisplay:
    """A bar with loss, speed and memory on a terminal; elsewhere a line now and then, and for each notable event.

    Args:
        total: updates of the whole run.
        start: updates that are already made.
        unit: what the speed counts.
        shown: False shows nothing, as on all processes but the main one.
    """

    def __init__(self, total: int, start: int, unit: str, shown: bool) -> None:
        self._shown = shown
        self._unit = unit
        self._total = total
        self._pace = Pace()
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (shown and console.is_terminal),
        )
        self._task = self._bar.add_task("training", total=total, completed=start, status="")

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def update(self, step: int, loss: float, speed: float, memory: int) -> None:
        """Show that `step` updates are made.

        Args:
            step: updates made.
            loss: of the last one.
            speed: units per second.
            memory: bytes.
        """
        status = f"loss {loss:.4f}  {speed:,.0f} {self._unit}/s  {memory / 2**30:.1f} GiB"
        self._bar.update(self._task, completed=step, status=status)
        if self._bar.disable and self._pace.is_due(step, self._total):
            self.note(f"update {step} of {self._total}: {status}{self._pace.left(step, self._total)}")

    def note(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._shown:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)


class Metrics:
    """The file `metrics.jsonl`: one JSON object per line, each with its `step`.

    Args:
        path: of the file.
        step: updates that are already made. Later records, of updates that a stopped run made after its last
            checkpoint, are dropped: they will be made again.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        records = [record for record in read_metrics(path) if record["step"] <= step]
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))

    def write(self, record: dict[str, Any]) -> None:
        """Append a record."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Make all records so far survive a power cut."""
        flush(self._path)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All records of a `metrics.jsonl`; lines that a crash or a disk has damaged are left out, with a warning."""
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            record = json.loads(line)
            if not isinstance(record["step"], int):
                raise TypeError(f"step={record['step']!r} must be an integer")
            records.append(record)
        except (ValueError, TypeError, KeyError, RecursionError):
            logger.warning("%s: line %d is no record of a run and is left out", path, number)
    return records


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are not installed; accelerate would leave them out silently.

    Raises:
        RecipeError: naming the package to install.
    """
    for name in names:
        # The writer that PyTorch brings needs TensorBoard's package as well.
        if importlib.util.find_spec(name) is None:
            raise RecipeError(
                f"tracking.trackers names {name!r}, which is not installed; pip install {name}, or leave it out"
            )


def flatten(tree: Any, key: str = "") -> dict[str, Any]:
    """A recipe's tree as `section.key` with values that trackers take."""
    if not isinstance(tree, dict):
        return {key: tree if isinstance(tree, (int, float, str, bool)) else json.dumps(tree)}
    return {
        full: value
        for name, entry in tree.items()
        for full, value in flatten(entry, f"{key}.{name}" if key else name).items()
    }
