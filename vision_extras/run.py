# SPDX-License-Identifier: Apache-2.0
"""Training an image classifier: from a recipe to a folder that `load_network` reads."""

from __future__ import annotations

import math
from functools import partial

import torch
from accelerate import Accelerator
from torch import nn

from hylora.randomness import generator
from hylora.training.processes import SHARDED, share_of
from hylora.training.recipe import RecipeError
from hylora.training.tasks import TaskKind
from hylora.training.whole_run import RunResult, run
from vision_extras.images import Split, load_split
from vision_extras.models import ModelRecipe, OwnNetwork, build_network, check_logits
from vision_extras.planned import refuse_sides
from vision_extras.planning import RunPlan, compound, plan_run
from vision_extras.recipe import ImageRecipe
from vision_extras.sparse.compression import check_levels
from vision_extras.sparse.phased import check_network
from vision_extras.subspaces import CompressibleSubspace
from vision_extras.task import Classification, ImageTask, Loss
from vision_extras.transfer.frozen import cached_features, stays_the_same
from vision_extras.transfer.products import SparseProducts

__all__ = ["TASK", "make_task", "train"]


def train(recipe: ImageRecipe, network: nn.Module | None = None, loss: Loss | None = None) -> RunResult:
    """Train as `hylora.training.run`; `vision_extras.models.load_network(result.folder)` gives the network.

    Args:
        recipe: of the run.
        network: from images [B, C, H, W] to logits [B, classes], in place of the recipe's; every process passes one.
        loss: from logits and labels to the loss of each image, [B], in place of cross entropy.
    """
    return run(recipe, partial(make_task, network=network, loss=loss))


def make_task(
    recipe: ImageRecipe, accelerator: Accelerator, network: nn.Module | None = None, loss: Loss | None = None
) -> ImageTask:
    """The task of a recipe: its images read, and its network at its first weights.

    Args:
        recipe: of the run.
        accelerator: of the run.
        network: as in `train`.
        loss: as in `train`.

    Raises:
        RecipeError: if the recipe cannot work here.
    """
    for key, value, off in (
        ("growth.width", recipe.growth.width, 1),
        ("growth.depth", recipe.growth.depth, 1),
        ("pruning.sparsity", recipe.pruning.sparsity, 0),
        ("signals.fisher", recipe.signals.fisher, 0),
        ("subspace.kind", recipe.subspace.kind, "none"),
        ("one_shot.levels", recipe.one_shot.levels, ()),
        ("sparse.schedule", recipe.sparse.schedule, "none"),
        ("cram.update", recipe.cram.update, "none"),
    ):
        if value != off and accelerator.distributed_type in SHARDED:
            raise RecipeError(
                f"{key}={value!r} cannot be had while parameters are sharded over processes; train with DDP or on one "
                "GPU"
            )
    if recipe.model.train == "head" and network is not None:
        raise RecipeError(
            "model.train='head' begins with the network of model.path, and a network was passed; pass one whose other "
            "parameters require no gradient, or leave it out"
        )
    if recipe.growth.grows and network is not None:
        raise RecipeError(
            f"growth.width={recipe.growth.width} and growth.depth={recipe.growth.depth} are for networks of this "
            "package; leave them out to train one of your own"
        )
    if loss is not None and recipe.augment.label_smoothing:
        raise RecipeError(
            f"augment.label_smoothing={recipe.augment.label_smoothing} is for cross entropy, and a loss of your own "
            "would not see it; smooth labels in that one"
        )
    # Nobody knows what else a factory of somebody's own needs.
    if network is None and ":" not in recipe.model.name:
        refuse_sides(recipe, _build(recipe.model, channels=3, classes=2, draw=None), recipe.evaluation.sides)
    try:
        split = load_split(recipe.images)
        if recipe.images.random_labels:
            split = split.with_random_labels(recipe.images.random_labels, recipe.training.seed)
    except ValueError as error:
        raise RecipeError(f"images.{error}") from error
    drawn = network is None and recipe.model.path is None
    if network is None:
        model = recipe.growth.network_at(recipe.model, 0, recipe.training.epochs)
        draw = generator("network", recipe.training.seed)
        network = _build(model, split.channels, len(split.classes), draw)
    else:
        network = OwnNetwork(network)
    _check_levels(recipe, network, split)
    if recipe.sparse.schedule != "none":
        try:
            check_network(recipe.sparse, network)
        except ValueError as error:
            raise RecipeError(f"sparse.{error}") from error
    if recipe.subspace.kind != "none":
        network = _subspace(recipe, network, split, drawn)
    refuse_sides(recipe, network, recipe.evaluation.sides)
    shapes = recipe.sampler.shapes(recipe.training.epochs)
    try:
        for shape in {shapes[0], shapes[-1], *((side, side) for side in recipe.evaluation.sides)}:
            _check(network, shape, split.channels, len(split.classes))
    except ValueError as error:
        instance = recipe.subspace.norm == "instance"
        remedy = "; norms of each channel need several positions, which larger images have" if instance else ""
        raise RecipeError(f"model.name={recipe.model.name!r}: {error}{remedy}") from error
    products = features = None
    if recipe.model.train == "head":
        # Where there is a GPU, its convolutions are faster.
        products = SparseProducts(network if accelerator.device.type == "cpu" else nn.Identity())
        with products.applied():
            if stays_the_same(recipe):
                features = cached_features(network, split, recipe, accelerator.device)
    model = Classification(network, loss, recipe.augment.label_smoothing, products)
    try:
        return ImageTask(model, split, recipe, share_of(accelerator), features)
    except ValueError as error:
        raise RecipeError(f"training under sampler.name={recipe.sampler.name!r}: {error}") from error


def _check(network: nn.Module, shape: tuple[int, int], channels: int, classes: int) -> None:
    """Try a network on an image, and a subspace at both its ends."""
    check_logits(network, shape, channels, classes)
    if isinstance(network, CompressibleSubspace):
        check_logits(network.at_level(network.compression.strongest), shape, channels, classes)
        network.at_level(network.compression.weakest)
        ramp = torch.linspace(-1, 1, channels * math.prod(shape))
        network.check(ramp.reshape(1, channels, *shape))


def _check_levels(recipe: ImageRecipe, network: nn.Module, split: Split) -> None:
    """Both what is compressed in training and what is compressed after it, where the network is whole."""
    wanted = {"one_shot": recipe.one_shot, "cram": recipe.cram if recipe.cram.update != "none" else None}
    wanted = {key: section for key, section in wanted.items() if section is not None and section.levels}
    if wanted and recipe.growth.grows:
        network = _build(recipe.model, split.channels, len(split.classes), draw=None)
    for key, section in wanted.items():
        try:
            check_levels(network, section.levels, section.keep)
        except ValueError as error:
            raise RecipeError(f"{key}.{error}") from error


def _subspace(recipe: ImageRecipe, network: nn.Module, split: Split, drawn: bool) -> CompressibleSubspace:
    """A network as the accurate end of a subspace, or the whole of it; where it is drawn, so is the other end."""
    wanted, other = recipe.subspace, None
    if wanted.kind == "line" and drawn:
        draw = generator("other end", recipe.training.seed)
        other = _build(recipe.model, split.channels, len(split.classes), draw)
    try:
        return wanted.make(network, other)
    except ValueError as error:
        raise RecipeError(f"subspace.compression={wanted.compression!r}: {error}") from error


def _build(model: ModelRecipe, channels: int, classes: int, draw: torch.Generator | None) -> nn.Module:
    try:
        return build_network(model, channels, classes, draw)
    except ValueError as error:
        raise RecipeError(f"model.{error}") from error


def plan(recipe: ImageRecipe, budget: float | None) -> RunPlan:
    """What a run takes; with a budget, the one that begins as small as it has to."""
    return plan_run(recipe) if budget is None else compound(recipe, budget)


TASK = TaskKind(
    ImageRecipe,
    make_task,
    advise=lambda folder: f"next: vision_extras.models.load_network('{folder}') gives the network",
    plan=plan,
)
