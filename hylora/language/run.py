# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning a language model: from a recipe to a folder that `hylora.load` reads.

A recipe is found wrong before torch, PEFT and datasets are imported, which takes seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hylora.language.recipe import LanguageRecipe
from hylora.training.tasks import TaskKind

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hylora.language.task import LanguageTask
    from hylora.training.whole_run import RunResult

__all__ = ["TASK", "make_task", "train"]


def train(recipe: LanguageRecipe) -> RunResult:
    """Fine-tune as `hylora.training.run`; `hylora.load(result.folder)` gives the model."""
    from hylora.training.whole_run import run

    return run(recipe, make_task)


def make_task(recipe: LanguageRecipe, accelerator: Accelerator) -> LanguageTask:
    """The task of a recipe: its model planned, its data read, and then its weights loaded.

    Raises:
        RecipeError: if the recipe cannot work here.
    """
    from hylora.language.assembly import assemble

    return assemble(recipe, accelerator)


def advise(folder: Path) -> str:
    """What is said when training ends."""
    from hylora.language.advice import advise

    return advise(folder)


TASK = TaskKind(LanguageRecipe, make_task, advise)
