# SPDX-License-Identifier: Apache-2.0
"""Structured width: of each layer the first channels alone (section 3.2.4)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from vision_extras.subspaces.compression import Compression
from vision_extras.subspaces.position import Position

__all__ = ["Width"]


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
        return self.strongest + (self.weakest - self.strongest) * alpha

    def alpha(self, level: float) -> float:
        return (level - self.strongest) / (self.weakest - self.strongest)

    def annealed(self, level: float, left: float) -> float:
        return level + (1 - level) * left

    def compress(self, network: nn.Module, position: Position, keep: Collection[str] | None) -> None:
        raise NotImplementedError
