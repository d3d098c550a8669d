# SPDX-License-Identifier: Apache-2.0
"""Affine quantisation of weights and of what layers are given, to 3 to 8 bits (section 3.2.4)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

from vision_extras.models.grid import Grid
from vision_extras.subspaces.compression import Compression, compressible
from vision_extras.subspaces.position import Position
from vision_extras.subspaces.quantizer import InputQuantizer, WeightQuantizer

__all__ = ["Bits"]


@dataclass(frozen=True)
class Bits(Compression):
    """Levels are numbers of bits, and gamma(alpha) = 2 + 6 alpha.

    Batch norms are not folded into the weights before these are quantised: the method has norms without statistics,
    which cannot be.

    Args:
        weakest: bits at the accurate end, 3 to 8.
        strongest: bits at the efficient end, not above the weakest.
    """

    name: ClassVar[str] = "bits"

    weakest: float = 8
    strongest: float = 3

    def __post_init__(self) -> None:
        whole = float(self.weakest).is_integer() and float(self.strongest).is_integer()
        if not (whole and 3 <= self.strongest <= self.weakest <= 8):
            raise ValueError(
                f"weakest={self.weakest!r} and strongest={self.strongest!r} must be numbers of bits from 8 to 3, "
                "and the strongest not above the weakest"
            )

    def level(self, alpha: float) -> float:
        return round(2 + 6 * alpha)

    def alpha(self, level: float) -> float:
        return (level - 2) / 6

    def annealed(self, level: float, left: float) -> float:
        return round(level + (8 - level) * left)

    def levels(self) -> tuple[float, ...]:
        return tuple(range(int(self.weakest), int(self.strongest) - 1, -1))

    def compress(self, network: nn.Module, position: Position, keep: Collection[str] | None) -> None:
        for layer in compressible(network, keep).values():
            parametrize.register_parametrization(layer, "weight", WeightQuantizer(position))
            layer.input_quantizer = InputQuantizer(position, layer.weight.device)
            layer.register_forward_pre_hook(_quantize_input)

    def settle(self, network: nn.Module, image: tuple[int, ...] | None) -> None:
        for layer in _quantized_layers(network).values():
            layer.input_quantizer = layer.input_quantizer.settled()

    def grids(self, network: nn.Module) -> dict[str, Grid]:
        return {
            f"{name}.weight".lstrip("."): _weight_grid(layer.parametrizations["weight"])
            for name, layer in _quantized_layers(network).items()
        }


def _quantized_layers(network: nn.Module) -> dict[str, nn.Module]:
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(getattr(layer, "input_quantizer", None), InputQuantizer)
    }


def _weight_grid(parametrizations: parametrize.ParametrizationList) -> Grid:
    """The grid of the weight that the last of its parametrizations is given."""
    found = []
    quantizer = parametrizations[-1]
    with quantizer.register_forward_hook(lambda module, inputs, output: found.append(module.grid(*inputs))):
        parametrizations()
    return found[0]


def _quantize_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A hook that knows no layer of its own, so that copies of a network quantise by themselves."""
    return (layer.input_quantizer(inputs[0]), *inputs[1:])
