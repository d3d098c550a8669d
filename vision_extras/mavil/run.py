# SPDX-License-Identifier: Apache-2.0
"""Training a masked audio-video learner: from a recipe to a folder that `from_pretrained` reads."""

from __future__ import annotations

from accelerate import Accelerator

from hylora.randomness import generator
from hylora.training.processes import share_of
from hylora.training.recipe import RecipeError
from hylora.training.tasks import TaskKind
from hylora.training.whole_run import RunResult, run
from vision_extras.clips.sources import load_clips
from vision_extras.mavil.model import MavilForPreTraining
from vision_extras.mavil.planning import MavilPlan, plan_run
from vision_extras.mavil.recipe import MavilRecipe
from vision_extras.mavil.task import MavilTask, SelfSupervised
from vision_extras.models.weights import drawn_from

__all__ = ["TASK", "make_task", "train"]


def train(recipe: MavilRecipe) -> RunResult:
    """Train as `hylora.training.run`; `MavilForPreTraining.from_pretrained(result.folder)` gives the learner."""
    return run(recipe, make_task)


def make_task(recipe: MavilRecipe, accelerator: Accelerator) -> MavilTask:
    """The task of a recipe: its clips found, and its learner at its first weights.

    Raises:
        RecipeError: if the recipe cannot work here.
    """
    try:
        split = load_clips(recipe.clips, video=recipe.model.video)
    except ValueError as error:
        raise RecipeError(f"clips.{error}") from error
    with drawn_from(generator("network", recipe.training.seed)):
        network = MavilForPreTraining(recipe.model.config(recipe.clips.bands))
    try:
        return MavilTask(SelfSupervised(network), split, recipe, share_of(accelerator))
    except ValueError as error:
        raise RecipeError(f"training: {error}") from error


def plan(recipe: MavilRecipe, budget: float | None) -> MavilPlan:
    """What a run takes.

    Raises:
        RecipeError: if the recipe cannot work, or has to keep to a budget.
    """
    if budget is not None:
        raise RecipeError(f"budget={budget} is for recipes of images; raise mask.first, and look at the plan")
    return plan_run(recipe)


TASK = TaskKind(
    MavilRecipe,
    make_task,
    advise=lambda folder: f"next: fine-tune its audio branch with a recipe of task sounds and model.path={folder}",
    plan=plan,
)
