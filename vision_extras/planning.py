# SPDX-License-Identifier: Apache-2.0
"""What a run takes before it starts, and how small it has to begin to keep to a budget (chapter 4, section 4.4.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from torch import nn

from hylora.training.recipe import RecipeError
from vision_extras.curricula import GrowthRecipe, Plan
from vision_extras.curricula.scales import Shape
from vision_extras.images import load_split
from vision_extras.metrics.flops import on_meta, training_flops
from vision_extras.models import ModelRecipe, build_network
from vision_extras.models.resnet import ResNet
from vision_extras.models.resnet_config import ResNetConfig
from vision_extras.planned import refuse_sides
from vision_extras.plans import PlannedRun
from vision_extras.recipe import ImageRecipe
from vision_extras.subspaces import CompressibleSubspace, Curriculum, SubspaceRecipe, Width

__all__ = ["EpochPlan", "ImageSet", "RunPlan", "compound", "epoch_flops", "image_flops", "plan_run"]

# Of an image in an epoch, at a resolution.
Cost = Callable[[int, Shape], int]

# Of an image [C, H, W], at a level of a subspace; None for where the network stands.
Count = Callable[[tuple[int, int, int], float | None], int]

# What a factor may begin at, in the order in which it is reduced; the thesis goes down to a quarter.
_FACTORS = tuple((100 - hundredth) / 100 for hundredth in range(76))


class ImageSet(NamedTuple):
    """What has to be known of the images to learn from.

    Args:
        images: in an epoch.
        channels: colours.
        classes: to tell apart.
    """

    images: int
    channels: int
    classes: int


def image_flops(recipe: ImageRecipe, network: nn.Module, channels: int, count: Count | None = None) -> Cost:
    """Operations that training takes for an image, by epoch and resolution.

    What pruning, sparsity and few bits take away is counted, since the tensors keep their shapes; what signals take is
    not. Of a subspace all networks of an update are counted: of widths at random the mean, in the middle of the epoch.

    Args:
        recipe: of the run.
        network: that is trained; it may be on the meta device.
        channels: of the images.
        count: of an image's operations (`counter`), where it has counted already.

    Returns:
        Called, it raises a `ValueError` if operations cannot be counted, as in `metrics.flops.training_flops`.
    """
    passes, epochs = 2 if recipe.sharpness.radius else recipe.cram.passes, recipe.training.epochs
    subspace = network if isinstance(network, CompressibleSubspace) else None
    narrows = subspace is not None and isinstance(subspace.compression, Width)
    plain = network if subspace is None else subspace.network
    known = isinstance(plain, ResNet) and not narrows and recipe.model.train == "all"
    if count is None and not known:
        # Now, as processes may come to hold shares of the weights.
        count = counter(network)

    def levels(epoch: int) -> list[tuple[float | None, float]]:
        """How many networks an update has at each level; at None, where levels change no operations."""
        if subspace is None:
            return [(None, 1)]
        expected = Curriculum(subspace.compression, recipe.subspace).expected((epoch + 0.5) / epochs)
        return expected if narrows else [(None, sum(number for _, number in expected))]

    @cache
    def config_at(epoch: int) -> ResNetConfig:
        return _scaled(plain, recipe.growth.network_at(recipe.model, epoch, epochs))

    @cache
    def cost(epoch: int, shape: Shape) -> int:
        def operations(level: float | None) -> int:
            return config_at(epoch).training_flops(*shape) if known else count((channels, *shape), level)

        return round(passes * sum(number * operations(level) for level, number in levels(epoch)))

    return cost


def counter(network: nn.Module) -> Count:
    """Counts a network's operations by `training_flops`, once for each image's shape and each level of a subspace.

    Args:
        network: that is trained; it may be on the meta device, and is not changed.
    """
    network = on_meta(network)

    @cache
    def count(shape: tuple[int, int, int], level: float | None = None) -> int:
        if level is not None:
            network.move(network.compression.alpha(level), level)
        return training_flops(network, shape)

    return count


def _scaled(network: ResNet, model: ModelRecipe) -> ResNetConfig:
    """The network's shape with the factors of a recipe; that of a run has its own."""
    if model.name == "run":
        return network.config
    return dataclasses.replace(network.config, width=model.width, depth=model.depth)


def epoch_flops(plan: Plan, epoch: int, cost: Cost) -> int:
    """Operations of an epoch."""
    return sum(images * cost(epoch, shape) for shape, images in plan.rows_by_shape(epoch).items())


@dataclass(frozen=True)
class EpochPlan:
    """What an epoch takes.

    Args:
        epoch: from 0.
        updates: of the weights.
        smallest: height and width of its smallest images, in pixels.
        largest: likewise.
        width: factor on the network's channels.
        depth: factor on its blocks.
        parameters: of the network.
        flops: operations.
    """

    epoch: int
    updates: int
    smallest: Shape
    largest: Shape
    width: float
    depth: float
    parameters: int
    flops: int


@dataclass(frozen=True)
class RunPlan(PlannedRun):
    """What a run takes. Its reference is the full network at the reference resolution, in one pass for each image.

    Args:
        recipe, rows, parameters, dense, epochs: as of `PlannedRun`.
        data: its images.
    """

    rows_are = "images"
    reference = "SSc-FBS"

    data: ImageSet

    @property
    def start(self) -> dict[str, float]:
        """The keys of the recipe that say how small it begins, r_0, w_0 and d_0, where it begins small at all."""
        growth = {"growth.width": self.recipe.growth.width, "growth.depth": self.recipe.growth.depth}
        expands = self.recipe.sampler.name == "msc_vbswc"
        return {"sampler.start": self.recipe.sampler.start, **growth} if expands else growth

    @property
    def name(self) -> str:
        return self.recipe.model.name

    def totals(self) -> dict[str, str]:
        return {"begins with": ", ".join(f"{name}={value:g}" for name, value in self.start.items())}

    def cells(self, epoch: EpochPlan) -> dict[str, str]:
        return {
            "sides": f"{_side(epoch.smallest)}-{_side(epoch.largest)}",
            "updates": f"{epoch.updates:,}",
            "width": f"{epoch.width:.2f}",
            "depth": f"{epoch.depth:.2f}",
            "weights": f"{epoch.parameters:,}",
        }

    def curves(self) -> dict[str, tuple[str, Sequence[float]]]:
        count = len(self.epochs)
        return {
            "width": (":", [epoch.width for epoch in self.epochs]),
            "depth": ("--", [epoch.depth for epoch in self.epochs]),
            "resolution": ("-.", [self.recipe.sampler.factor(epoch, count) for epoch in range(count)]),
        }

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "data": self.data._asdict(), "start": self.start}


def plan_run(recipe: ImageRecipe, data: ImageSet | None = None) -> RunPlan:
    """What a run takes on one process. Nothing of the network's size is allocated.

    Args:
        recipe: of the run.
        data: what is known of the images; None to find out, for which none of a folder or data set is decoded.

    Raises:
        RecipeError: if the recipe cannot work.
    """
    data = data or _image_set(recipe)
    network = _network(recipe, data)
    return _planned(recipe, data, network, counter(network), _dense(recipe, data))


def _network(recipe: ImageRecipe, data: ImageSet) -> nn.Module:
    """The full network on the meta device."""
    try:
        network = build_network(recipe.model, data.channels, data.classes, None)
    except ValueError as error:
        raise RecipeError(f"model.{error}") from error
    if recipe.subspace.kind == "none":
        return network
    try:
        return recipe.subspace.make(network)
    except ValueError as error:
        raise RecipeError(f"subspace.compression={recipe.subspace.compression!r}: {error}") from error


def _dense(recipe: ImageRecipe, data: ImageSet) -> int:
    """Operations of an epoch of the full network alone at the reference resolution."""
    plain = dataclasses.replace(recipe, growth=GrowthRecipe(), subspace=SubspaceRecipe())
    return data.images * image_flops(plain, _network(plain, data), data.channels)(0, recipe.sampler.shape)


def _planned(recipe: ImageRecipe, data: ImageSet, network: nn.Module, count: Count, dense: int) -> RunPlan:
    loop, sampler = recipe.training, recipe.sampler
    plan = Plan(sampler, data.images, loop.epochs, loop.global_batch_size, loop.batch_size, loop.seed)
    refuse_sides(recipe, network)
    cost = image_flops(recipe, network, data.channels, count)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    epochs = []
    for epoch in range(loop.epochs):
        shapes = plan.rows_by_shape(epoch)
        model = recipe.growth.network_at(recipe.model, epoch, loop.epochs)
        epochs.append(
            EpochPlan(
                epoch=epoch,
                updates=plan.first_step(epoch + 1) - plan.first_step(epoch),
                smallest=min(shapes),
                largest=max(shapes),
                width=model.width,
                depth=model.depth,
                parameters=_scaled(network, model).parameters if isinstance(network, ResNet) else parameters,
                flops=epoch_flops(plan, epoch, cost),
            )
        )
    return RunPlan(recipe, data.images, parameters, dense, tuple(epochs), data)


def compound(recipe: ImageRecipe, budget: float, data: ImageSet | None = None) -> RunPlan:
    """The run that begins as small as a budget demands, in the order of section 4.4.2: resolution, width, depth.

    Width is reduced only when the resolution is at its minimum of a quarter, and depth only when the width is; all of
    them in hundredths, to the first that keeps to the budget. The recipe's own start factors are not looked at.

    Args:
        recipe: of the run, whose sampler expands resolutions.
        budget: operations over those of the dense run at the reference resolution, above 0.
        data: as in `plan_run`.

    Returns:
        What the run takes; its recipe has the start factors.

    Raises:
        ValueError: if no such run keeps to the budget.
        RecipeError: if the recipe cannot work, or its sampler does not expand resolutions.
    """
    if not budget > 0:
        raise ValueError(f"budget={budget} must be above 0, a share of the dense run's operations")
    if recipe.sampler.name != "msc_vbswc":
        raise RecipeError(
            f"sampler.name={recipe.sampler.name!r} cannot keep to a budget, for which resolutions are reduced first; "
            "set it to msc_vbswc"
        )
    data = data or _image_set(recipe)
    network = _network(recipe, data)
    count, dense = counter(network), _dense(recipe, data)

    def planned(resolution: float, width: float, depth: float) -> RunPlan:
        sampler = dataclasses.replace(recipe.sampler, start=resolution)
        growth = dataclasses.replace(recipe.growth, width=width, depth=depth)
        return _planned(dataclasses.replace(recipe, sampler=sampler, growth=growth), data, network, count, dense)

    low = _FACTORS[-1]
    phases = [lambda factor: planned(factor, 1.0, 1.0)]
    if isinstance(network, ResNet):
        phases += [lambda factor: planned(low, factor, 1.0), lambda factor: planned(low, low, factor)]
    for phase in phases:
        # One after another: what is drawn and rounded lets operations rise a little where a factor falls.
        for factor in _FACTORS:
            if (found := phase(factor)).share <= budget:
                return found
    least = phases[-1](low)
    start = ", ".join(f"{name}={value:g}" for name, value in least.start.items())
    raise ValueError(
        f"budget={budget} cannot be kept: with {start} the run still takes {least.share:.3f} of the dense one; raise "
        "the budget, or sampler.until and growth.until"
    )


def _image_set(recipe: ImageRecipe) -> ImageSet:
    images = recipe.images
    if images.path is not None:
        images = dataclasses.replace(images, unreadable="trust")
    try:
        split = load_split(images)
    except ValueError as error:
        raise RecipeError(f"images.{error}") from error
    return ImageSet(len(split.train), split.channels, len(split.classes))


def _side(shape: tuple[int, int]) -> str:
    """A resolution in the fewest characters."""
    height, width = shape
    return f"{height}" if height == width else f"{height}x{width}"
