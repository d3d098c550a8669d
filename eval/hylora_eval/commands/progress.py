# SPDX-License-Identifier: Apache-2.0
"""Progress bars of evaluations, on standard error."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["progress_bars", "reporter"]


def progress_bars() -> Progress:
    """A context within which `reporter` shows its bars."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def reporter(progress: Progress, description: str, total: int | None = None) -> Callable[..., None]:
    """A new bar, and the function that moves it: called with what is done and, once known, the total."""
    task = progress.add_task(description, total=total)
    return lambda done, total=total: progress.update(task, completed=done, total=total)
