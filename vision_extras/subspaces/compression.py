# SPDX-License-Identifier: Apache-2.0
"""What all compressions have in common (section 3.2.4): levels, and where on the line each belongs."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from vision_extras.models.grid import Grid
from vision_extras.subspaces.position import Position

__all__ = ["Compression", "classifiers", "compressible"]


@dataclass(frozen=True)
class Compression:
    """A way to make a network cheaper, from a weakest to a strongest level.

    Args:
        weakest: level at the accurate end.
        strongest: level at the efficient end.
    """

    name: ClassVar[str]
    # Whether the ends of a line differ in their norms alone.
    shares_weights: ClassVar[bool] = False

    weakest: float
    strongest: float

    def level(self, alpha: float) -> float:
        """The level that belongs to a point of the line: gamma(alpha)."""
        raise NotImplementedError

    def alpha(self, level: float) -> float:
        """The point of the line that a level belongs to."""
        raise NotImplementedError

    def annealed(self, level: float, left: float) -> float:
        """A level while the compression comes on.

        Args:
            level: in the end.
            left: the share of the warm-up that is still to come: 1 for no compression, 0 for the level itself.
        """
        raise NotImplementedError

    def levels(self) -> tuple[float, ...] | None:
        """All levels, from the weakest to the strongest, where there is a number of them; None for a continuum."""
        return None

    def compress(self, network: nn.Module, position: Position, keep: Collection[str] | None) -> None:
        """Make a network's layers look at a position for how much they are compressed, in place.

        Args:
            network: whose layers are compressed.
            position: that they look at.
            keep: names of layers that stay as they are; None for the first and the last, or for what the compression
                says.

        Raises:
            ValueError: if the network has nothing to compress, or cannot be compressed in this way.
        """
        raise NotImplementedError

    def check(self, network: nn.Module, images: Tensor) -> None:
        """Refuse a network that runs at the present level, but not as the one that it is at others.

        Args:
            network: that is compressed.
            images: [B, C, H, W], not constant.

        Raises:
            ValueError: saying what cannot be compressed.
        """

    def settle(self, network: nn.Module, image: tuple[int, ...] | None) -> None:
        """Leave plain modules at the present level, in place, after all weights have become plain parameters.

        Args:
            network: that is compressed.
            image: shape of an image that it takes, [C, H, W]; None where nobody has said one.

        Raises:
            ValueError: if the shape is needed.
        """

    def grids(self, network: nn.Module) -> dict[str, Grid]:
        """The grids of few bits that weights are on at the present level, by the weight's name.

        Args:
            network: compressed and not settled.
        """
        return {}

    def check_level(self, level: float) -> None:
        """Refuse a level that this compression does not have.

        Raises:
            ValueError: naming the levels there are.
        """
        low, high = sorted((self.weakest, self.strongest))
        allowed = self.levels()
        if not low <= level <= high or (allowed is not None and level not in allowed):
            raise ValueError(
                f"level={level!r} must be {' or '.join(map(str, allowed)) if allowed else f'from {low} to {high}'}, "
                f"the levels of {self.name} between weakest and strongest"
            )


def compressible(network: nn.Module, keep: Collection[str] | None) -> dict[str, nn.Module]:
    """The convolutions and linear layers that are compressed, by name, in the order in which the network has them.

    Args:
        network: any module.
        keep: names of layers that are not; None for the first and the last, which see the image and give the logits.

    Raises:
        ValueError: if none is left, or a name is of no such layer.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    layers = {name: module for name, module in network.named_modules() if isinstance(module, kinds)}
    kept = _outermost(layers) if keep is None else set(keep)
    if unknown := kept - layers.keys():
        raise ValueError(f"keep={sorted(unknown)} must be names of convolutions or linear layers of the network")
    found = {name: layer for name, layer in layers.items() if name not in kept}
    if not found:
        raise ValueError(f"of {len(layers)} layers {len(kept)} are kept, so that none is left to compress")
    return found


def _outermost(layers: Mapping[str, nn.Module]) -> set[str]:
    return {*[*layers][:1], *classifiers(layers)}


def classifiers(layers: Mapping[str, nn.Module]) -> set[str]:
    """Names of the last layer and of those of its shape beside it: a distilled DeiT has two classifiers.

    Args:
        layers: of a network, as `compressible` gives them.
    """
    last = next(reversed(layers), "")

    def classifies(name: str) -> bool:
        beside = name.rpartition(".")[0] == last.rpartition(".")[0]
        outputs, *inputs = layers[name].weight.shape
        # Layers that give as much as they take may as well be one after another.
        alike = layers[name].weight.shape == layers[last].weight.shape and outputs != inputs[0]
        return name == last or (beside and alike)

    return {*itertools.takewhile(classifies, reversed(layers))}
