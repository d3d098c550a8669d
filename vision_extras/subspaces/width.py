# SPDX-License-Identifier: Apache-2.0
"""Structured width: of each layer the first channels alone (section 3.2.4)."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from vision_extras.subspaces.channels import channels_given, check_channels
from vision_extras.subspaces.compression import Compression, classifiers, compressible
from vision_extras.subspaces.position import Position
from vision_extras.subspaces.slim import Slim, make_slim, slim_class

__all__ = ["Width"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Width(Compression):
    """Levels are the share of channels that stays; gamma is the straight line from alpha = 0 to alpha = 1.

    Args:
        weakest: share at the accurate end, at most 1.
        strongest: share at the efficient end, above 0 and below the weakest.
    """

    name: ClassVar[str] = "width"
    shares_weights: ClassVar[bool] = True

    weakest: float = 1.0
    strongest: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.strongest < self.weakest <= 1:
            raise ValueError(
                f"weakest={self.weakest!r} and strongest={self.strongest!r} must be shares of the channels that stay, "
                "at most 1 and above 0, the strongest below the weakest"
            )

    def level(self, alpha: float) -> float:
        # So that the ends are the ends.
        return round(self.strongest + (self.weakest - self.strongest) * alpha, 12)

    def alpha(self, level: float) -> float:
        return (level - self.strongest) / (self.weakest - self.strongest)

    def annealed(self, level: float, left: float) -> float:
        return level + (1 - level) * left

    def compress(self, network: nn.Module, position: Position, keep: Collection[str] | None) -> None:
        """Make a network's layers give their first channels alone, and take what they are given, in place.

        What a layer norm normalises keeps its channels, as its mean is of them all, and so does attention: of a
        network with layer norms the inner layers of its perceptrons alone become narrower.

        Args:
            network: whose layers are compressed.
            position: that they look at.
            keep: names of layers that keep all outputs; None for the last, which gives the logits.

        Raises:
            ValueError: if nothing is left to compress, or a layer cannot be compressed in this way.
        """
        modules = dict(network.named_modules())
        layers = compressible(network, ())
        whole = classifiers(layers) if keep is None else set(keep)
        if normalised := _normalised(network):
            whole |= {name for name, layer in layers.items() if not _is_inner(layer, normalised)}
        # Refused where nothing is left but depthwise convolutions, which follow what they are given.
        compressible(network, whole | {name for name in layers if getattr(layers[name], "groups", 1) > 1})
        kinds = {name: _slim_class_of(name, module) for name, module in modules.items()}
        for name, kind in kinds.items():
            if kind is not None:
                make_slim(modules[name], kind, position, name in whole)

    def check(self, network: nn.Module, images: Tensor) -> None:
        check_channels(network, images)
        if _normalised(network):
            layers = compressible(network, ())
            logger.warning(
                "%d of %d layers become narrower, as layer norms keep their channels; adaptive widths of transformers "
                "did not converge to high accuracies in the thesis (section 3.3.2)",
                sum(not layer.whole for layer in layers.values()),
                len(layers),
            )

    def settle(self, network: nn.Module, image: tuple[int, ...] | None) -> None:
        slim = [module for module in network.modules() if isinstance(module, Slim)]
        try:
            given = channels_given(network, _blank(network, image))
        except ValueError as error:
            raise ValueError(f"{error}; call the subspace's check with images that it takes, then export") from error
        for layer in slim:
            if layer in given:
                layer.settle(given[layer])
            else:
                # Others read its weights, or nobody does.
                layer.release()


def _normalised(network: nn.Module) -> set[int]:
    """How many channels the layer norms of a network normalise."""
    norms = (module for module in network.modules() if isinstance(module, (nn.LayerNorm, nn.RMSNorm)))
    return {norm.normalized_shape[-1] for norm in norms}


def _is_inner(layer: nn.Module, normalised: set[int]) -> bool:
    """Whether a layer leads from what layer norms normalise to something else than that, or than attention."""
    outputs, inputs = layer.weight.shape[:2]
    # Three times as many are queries, keys and values in one.
    return inputs in normalised and not {outputs, outputs / 3} & normalised


def _slim_class_of(name: str, module: nn.Module) -> type[Slim] | None:
    if isinstance(module, nn.TransformerEncoderLayer):
        raise ValueError(f"{name} reads the weights of its layers past their forward passes, and cannot be narrower")
    try:
        return slim_class(module)
    except ValueError as error:
        raise ValueError(f"{name} cannot be narrower: {error}") from error


def _blank(network: nn.Module, shape: tuple[int, ...] | None) -> Tensor:
    """An image of a shape, or else of one that most networks take."""
    first = next(module for module in network.modules() if isinstance(module, Slim))
    if shape is None:
        stride = getattr(network, "stride", 1)
        # Several positions at the end, without which norms of channels are not defined.
        side = stride * max(2, -(-64 // stride))
        shape = (first.weight.shape[1], side, side)
    return first.weight.new_zeros(1, *shape)
