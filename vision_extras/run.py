# SPDX-License-Identifier: Apache-2.0
"""Training an image classifier: from a recipe to a folder that `load_network` reads."""

from __future__ import annotations

from accelerate import Accelerator

from hylora.randomness import generator
from hylora.training.processes import SHARDED, share_of
from hylora.training.recipe import RecipeError
from hylora.training.run import RunResult, run
from hylora.training.tasks import TaskKind
from vision_extras.images import load_split
from vision_extras.models import build_network
from vision_extras.planning import RunPlan, compound, plan_run
from vision_extras.recipe import ImageRecipe
from vision_extras.task import Classification, ImageTask

__all__ = ["TASK", "make_task", "train"]


def train(recipe: ImageRecipe) -> RunResult:
    """Train as `hylora.training.run`; `vision_extras.models.load_network(result.folder)` gives the network."""
    return run(recipe, make_task)


def make_task(recipe: ImageRecipe, accelerator: Accelerator) -> ImageTask:
    """The task of a recipe: its images read, and its network at its first weights.

    Raises:
        RecipeError: if the recipe cannot work here.
    """
    if recipe.growth.grows and accelerator.distributed_type in SHARDED:
        raise RecipeError(
            f"growth.width={recipe.growth.width} and growth.depth={recipe.growth.depth} cannot be had while "
            "parameters are sharded over processes; train with DDP or on one GPU"
        )
    try:
        split = load_split(recipe.images)
    except ValueError as error:
        raise RecipeError(f"images.{error}") from error
    model = recipe.growth.network_at(recipe.model, 0, recipe.training.epochs)
    draw = generator("network", recipe.training.seed)
    try:
        network = build_network(model, split.channels, len(split.classes), draw)
    except ValueError as error:
        raise RecipeError(f"model.{error}") from error
    return ImageTask(Classification(network), split, recipe, share_of(accelerator))


def plan(recipe: ImageRecipe, budget: float | None) -> RunPlan:
    """What a run takes; with a budget, the one that begins as small as it has to."""
    return plan_run(recipe) if budget is None else compound(recipe, budget)


TASK = TaskKind(
    ImageRecipe,
    make_task,
    advice="next: vision_extras.models.load_network('{folder}') gives the network",
    plan=plan,
)
