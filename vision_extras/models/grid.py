# SPDX-License-Identifier: Apache-2.0
"""What integers of few bits stand for: affine quantisation (Jacob et al., 2018)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Grid", "grid_of"]


class Grid(NamedTuple):
    """The values `scale * (n - zero)` for n from -2^(bits - 1) to 2^(bits - 1) - 1, one of which is 0.

    Attributes:
        scale: the step, a tensor [] of floats; 0 where there is no step, as for a range of nothing but 0.
        zero: the integer that stands for 0, likewise.
        bits: of an integer, up to 8.
    """

    scale: Tensor
    zero: Tensor
    bits: int

    @property
    def lowest(self) -> int:
        """The least integer."""
        return -(2 ** (self.bits - 1))

    @property
    def highest(self) -> int:
        """The greatest integer."""
        return -self.lowest - 1

    def integers(self, x: Tensor) -> Tensor:
        """The nearest integers for values of any shape, halves to the even one, as floats of at least 32 bits."""
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        rounded = (exact / _divisor(self.scale)).round_().add_(self.zero)
        return rounded.clamp_(self.lowest, self.highest)

    def values(self, integers: Tensor) -> Tensor:
        """The values that integers stand for, which are floats."""
        return (integers - self.zero).mul_(self.scale)


def grid_of(low: Tensor, high: Tensor, bits: int) -> Grid:
    """The grid of a range, which is widened to have 0 in it.

    Args:
        low, high: the range, tensors [] of floats.
        bits: of an integer, up to 8.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    grid = Grid(scale, torch.zeros_like(scale), bits)
    zero = (grid.lowest - low / _divisor(scale)).round()
    return grid._replace(zero=zero.clamp(grid.lowest, grid.highest))


def _divisor(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, 1)
