# SPDX-License-Identifier: Apache-2.0
"""What a person watching a run sees."""

from __future__ import annotations

import resource
import sys

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["ProgressDisplay", "peak_memory"]


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: of the device if it is a GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class ProgressDisplay:
    """A bar with loss, speed and memory on a terminal, and a line for each notable event elsewhere.

    Args:
        total: updates of the whole run.
        start: updates that are already made.
        unit: what the speed counts.
        shown: False shows nothing, as on all processes but the main one.
    """

    def __init__(self, total: int, start: int, unit: str, shown: bool) -> None:
        self._shown = shown
        self._unit = unit
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

    def note(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._shown:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
