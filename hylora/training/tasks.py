# SPDX-License-Identifier: Apache-2.0
"""The tasks that can be trained, by the name that a recipe gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hylora.training.recipe import Recipe, RecipeError
from hylora.words import nearest

if TYPE_CHECKING:
    from accelerate import Accelerator
    from rich.console import Console

    from hylora.training.task import Task

__all__ = ["GROUP", "Plan", "TaskKind", "find_task"]

# Packages register tasks here, so that this one need not know them: name -> a `TaskKind`.
GROUP = "hylora.tasks"

_DEFAULT = "language"


class Plan(Protocol):
    """What a run will take."""

    def show(self, console: Console) -> None:
        """Print it for a person."""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""

    def draw(self, path: Path) -> None:
        """Draw what it takes over training into a picture, whose kind the file's ending says."""


@dataclass(frozen=True)
class TaskKind:
    """How a task is made.

    Args:
        recipe: type of its recipes.
        make: from such a recipe to the task, on each process. It checks what can be checked before it loads anything,
            and raises `RecipeError` for a recipe that cannot work.
        advise: from a run's folder to what is said when training ends: what came of it, what to do with the results.
            None for nothing.
        plan: from such a recipe to what the run will take, for `hylora plan`; None where nobody can tell. Its second
            argument is a budget, the share of the plain run's operations to keep to by changing the recipe, or None.
    """

    recipe: type[Recipe]
    make: Callable[[Any, Accelerator], Task]
    advise: Callable[[Path], str] | None = None
    plan: Callable[[Any, float | None], Plan] | None = None


def find_task(tree: dict[str, Any]) -> TaskKind:
    """The kind of task that a recipe's tree of plain values is for.

    Raises:
        RecipeError: if nothing is registered by the name of its key `task`.
    """
    name = tree.get("task", _DEFAULT)
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        raise RecipeError(
            f"task={name!r} is not one of {', '.join(sorted(known)) or 'none'}; "
            + (f"the nearest is {nearest(name, known)}" if known else "install the package that brings it")
        )
    return known[name].load()
