# SPDX-License-Identifier: Apache-2.0
"""Unstructured sparsity: of each layer the weights that are smallest become zero (TopK, section 3.2.4)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

from vision_extras.masks import smallest_of
from vision_extras.subspaces.compression import Compression, compressible
from vision_extras.subspaces.position import Position

__all__ = ["Sparsity", "TopK"]


@dataclass(frozen=True)
class Sparsity(Compression):
    """Levels are the share of each layer's weights that is zero, and gamma(alpha) = 1 - alpha.

    Args:
        weakest: share at the accurate end, in [0, 1).
        strongest: share at the efficient end, in [0, 1), not below the weakest. The thesis takes 0.975 for its wide
            regime, and 0.95 to 0.995 for its high one.
    """

    name: ClassVar[str] = "sparsity"

    weakest: float = 0.0
    strongest: float = 0.975

    def __post_init__(self) -> None:
        if not 0 <= self.weakest <= self.strongest < 1:
            raise ValueError(
                f"weakest={self.weakest!r} and strongest={self.strongest!r} must be shares of the weights that go, "
                "from 0 to below 1, and the strongest not below the weakest"
            )

    def level(self, alpha: float) -> float:
        # So that 1 - 0.1 is 0.9, and exact counts follow.
        return round(1 - alpha, 12)

    def alpha(self, level: float) -> float:
        return round(1 - level, 12)

    def annealed(self, level: float, left: float) -> float:
        return level * (1 - left)

    def compress(self, network: nn.Module, position: Position, keep: Collection[str] | None) -> None:
        for layer in compressible(network, keep).values():
            parametrize.register_parametrization(layer, "weight", TopK(position))


class TopK(nn.Module):
    """Keeps the largest weights of a layer, by magnitude; gradients are masked as the weights are.

    Of n weights `floor(level * n)` are zero; of equal ones the first go.

    Args:
        position: whose level is the share that goes.
    """

    def __init__(self, position: Position) -> None:
        super().__init__()
        self._position = position

    def forward(self, weight: Tensor) -> Tensor:
        """A weight of any shape to the same with zeros."""
        if not self._position.level:
            return weight
        gone = smallest_of(weight.detach().abs().flatten(), self._position.level).view_as(weight)
        return weight.masked_fill(gone, 0.0)
