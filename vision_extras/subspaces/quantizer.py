# SPDX-License-Identifier: Apache-2.0
"""Layers whose weights, and what they are given, are on grids of few bits (section 3.2.4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vision_extras.models.grid import Grid, grid_of
from vision_extras.subspaces.position import Position

__all__ = ["FixedQuantizer", "InputQuantizer", "WeightQuantizer", "quantized"]

# The share of the present extremes in a moving range.
_MOMENTUM = 0.1
_WIDTHS = range(3, 9)


def quantized(x: Tensor, grid: Grid) -> Tensor:
    """The nearest values of a grid, in the shape and type of x; where it has no step, x itself.

    The gradient passes as if nothing happened, outside of the range too.
    """
    return _StraightThrough.apply(x, *grid)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
        grid = Grid(scale, zero, bits)
        return torch.where(scale > 0, grid.values(grid.integers(x)).to(x.dtype), x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient, None, None, None


class WeightQuantizer(nn.Module):
    """A parametrization that puts a weight on the grid of its own range, at each pass.

    Args:
        position: whose level is the number of bits.
    """

    def __init__(self, position: Position) -> None:
        super().__init__()
        self._position = position

    def grid(self, weight: Tensor) -> Grid:
        """The grid between a weight's extremes."""
        return grid_of(*weight.detach().aminmax(), int(self._position.level))

    def forward(self, weight: Tensor) -> Tensor:
        """A weight of any shape to the nearest multiples of a step."""
        return quantized(weight, self.grid(weight))


class InputQuantizer(nn.Module):
    """Puts what a layer is given on a grid, where the position says so.

    The range is a moving average of the extremes that were seen in training, for each number of bits its own, from the
    first update on. A number of bits that was never seen takes the range of the nearest that was, of two equally near
    the one of more bits; where none was, inputs stay as they are.

    Args:
        position: whose level is the number of bits.
        device: of the ranges.
    """

    ranges: Tensor

    def __init__(self, position: Position, device: torch.device | None = None) -> None:
        super().__init__()
        self._position = position
        # Low and high for 3 to 8 bits. One that is 0 on both sides has not been seen, or has seen nothing.
        self.register_buffer("ranges", torch.zeros(len(_WIDTHS), 2, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Inputs of any shape to the same."""
        if self.training:
            self._observe(x.detach())
        return quantized(x, self.grid()) if self._position.activations else x

    @torch.no_grad()
    def grid(self) -> Grid:
        """The grid for the present number of bits."""
        bits = int(self._position.level)
        widths = torch.arange(_WIDTHS.start, _WIDTHS.stop, device=self.ranges.device)
        distance = 2 * (widths - bits).abs() - (widths > bits).long()
        unseen = (self.ranges == 0).all(1)
        # By an index that is a list, as a single one would be waited for.
        nearest = distance.masked_fill(unseen, 2 * len(_WIDTHS)).argmin().view(1)
        low, high = self.ranges.index_select(0, nearest).unbind(1)
        return grid_of(low.view(()), high.view(()), bits)

    def settled(self) -> nn.Module:
        """What it is for inputs at the present position."""
        return FixedQuantizer(self.grid()) if self._position.activations else nn.Identity()

    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        seen = self.ranges[_WIDTHS.index(int(self._position.level))]
        now = torch.stack(x.aminmax()).to(seen)
        seen.copy_(torch.where((seen == 0).all(), now, seen.lerp(now, _MOMENTUM)))


class FixedQuantizer(nn.Module):
    """Puts what a layer is given on a grid that stays.

    Args:
        grid: whose scale and zero become buffers.
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.bits = grid.bits
        self.register_buffer("scale", grid.scale)
        self.register_buffer("zero", grid.zero)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs of any shape to the same."""
        return quantized(x, Grid(self.scale, self.zero, self.bits))
