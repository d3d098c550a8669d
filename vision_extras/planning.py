# SPDX-License-Identifier: Apache-2.0
"""What a run takes before it starts, and how small it has to begin to keep to a budget (chapter 4, section 4.4.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
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
from vision_extras.recipe import ImageRecipe
from vision_extras.subspaces import CompressibleSubspace, Curriculum, SubspaceRecipe, Width

__all__ = ["EpochPlan", "ImageSet", "RunPlan", "compound", "epoch_flops", "image_flops", "plan_run"]

# Of an image in an epoch, at a resolution.
Cost = Callable[[int, Shape], int]

# Of an image [C, H, W], at a level of a subspace; None for where the network stands.
Count = Callable[[tuple[int, int, int], float | None], int]

# What a factor may begin at, in the order in which it is reduced; the thesis goes down to a quarter.
_FACTORS = tuple((100 - hundredth) / 100 for hundredth in range(76))

_ROWS = 12


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
class RunPlan:
    """What a run takes.

    Args:
        recipe: of the run.
        data: its images.
        parameters: of the full network; of both ends of a line.
        dense: operations of an epoch of the full network at the reference resolution (SSc-FBS), in one pass for each
            image.
        epochs: what each of them takes.
    """

    recipe: ImageRecipe
    data: ImageSet
    parameters: int
    dense: int
    epochs: tuple[EpochPlan, ...]

    @property
    def flops(self) -> int:
        """Operations of the run."""
        return sum(epoch.flops for epoch in self.epochs)

    @property
    def share(self) -> float:
        """Operations over those of as many dense epochs at the reference resolution."""
        return self.flops / (self.dense * len(self.epochs))

    @property
    def updates(self) -> int:
        """Updates of the weights."""
        return sum(epoch.updates for epoch in self.epochs)

    @property
    def start(self) -> dict[str, float]:
        """The keys of the recipe that say how small it begins, r_0, w_0 and d_0, where it begins small at all."""
        growth = {"growth.width": self.recipe.growth.width, "growth.depth": self.recipe.growth.depth}
        expands = self.recipe.sampler.name == "msc_vbswc"
        return {"sampler.start": self.recipe.sampler.start, **growth} if expands else growth

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {
            "recipe": self.recipe.to_tree(),
            "data": self.data._asdict(),
            "parameters": self.parameters,
            "updates": self.updates,
            "images": self.data.images * len(self.epochs),
            "flops": self.flops,
            "dense_flops": self.dense * len(self.epochs),
            "flops_over_dense": self.share,
            "start": self.start,
            "epochs": [dataclasses.asdict(epoch) for epoch in self.epochs],
        }

    def show(self, console: Console) -> None:
        """Print totals, and what about a dozen of the epochs take."""
        count = len(self.epochs)
        totals = Table(title=f"{self.recipe.model.name}, {count} epochs", show_header=False)
        for name, value in {
            "parameters": f"{self.parameters:,}",
            "images": f"{self.data.images * count:,}",
            "updates": f"{self.updates:,}",
            "FLOPs": f"{self.flops:.3g}",
            "over SSc-FBS": f"{self.share:.3f}",
            "begins with": ", ".join(f"{name}={value:g}" for name, value in self.start.items()),
        }.items():
            totals.add_row(name, value)
        table = Table(title="epochs", caption="share: of the FLOPs of the full network at the reference side")
        for name in ("epoch", "sides", "updates", "width", "depth", "weights", "FLOPs", "share"):
            table.add_column(name, justify="right", no_wrap=True)
        for number in sorted({round(row * (count - 1) / (_ROWS - 1)) for row in range(_ROWS)}):
            epoch = self.epochs[number]
            sides = f"{_side(epoch.smallest)}-{_side(epoch.largest)}"
            factors = (f"{factor:.2f}" for factor in (epoch.width, epoch.depth))
            costs = (f"{epoch.parameters:,}", f"{epoch.flops:.2e}", f"{epoch.flops / self.dense:.3f}")
            table.add_row(str(epoch.epoch), sides, f"{epoch.updates:,}", *factors, *costs)
        console.print(totals)
        console.print(table)

    def draw(self, path: Path) -> None:
        """Draw the operations of each epoch, and the factors that they come from.

        Raises:
            ValueError: if matplotlib is missing, or the file's ending is none of a picture.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ValueError("plot needs matplotlib, which is not installed; pip install 'hylora[demo]'") from error
        figure = Figure(figsize=(7.5, 3.6), layout="constrained")
        axis = figure.subplots()
        epochs = range(len(self.epochs))
        axis.fill_between(epochs, [epoch.flops / self.dense for epoch in self.epochs], alpha=0.3, step="mid")
        axis.plot(epochs, [epoch.flops / self.dense for epoch in self.epochs], drawstyle="steps-mid", label="FLOPs")
        axis.plot(epochs, [epoch.width for epoch in self.epochs], ":", label="width")
        axis.plot(epochs, [epoch.depth for epoch in self.epochs], "--", label="depth")
        axis.plot(
            epochs, [self.recipe.sampler.factor(epoch, len(epochs)) for epoch in epochs], "-.", label="resolution"
        )
        axis.axhline(1, color="#bbbbbb", linewidth=0.8, zorder=0)
        axis.set(xlabel="epoch", ylabel="over SSc-FBS, and factors", ylim=(0, None))
        axis.set_title(f"{self.share:.2f} of the FLOPs of SSc-FBS")
        axis.legend()
        figure.savefig(path)


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
    return RunPlan(recipe, data, parameters, dense, tuple(epochs))


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
