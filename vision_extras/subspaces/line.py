# SPDX-License-Identifier: Apache-2.0
"""A line in weight space: w(alpha) = alpha * w1 + (1 - alpha) * w2 (section 3.2.1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vision_extras.subspaces.position import Position

__all__ = ["Line", "draw_lines"]


class Line(nn.Module):
    """Makes of one parameter two, the ends of a line: `original0` the accurate one, `original1` the efficient one.

    Args:
        position: whose alpha is the point between them.
    """

    def __init__(self, position: Position) -> None:
        super().__init__()
        self._position = position

    def forward(self, accurate: Tensor, efficient: Tensor) -> Tensor:
        """The point between two tensors of one shape."""
        alpha = self._position.alpha
        return alpha * accurate + (1 - alpha) * efficient

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Both ends at a weight."""
        return weight, weight.clone()


@torch.no_grad()
def draw_lines(network: nn.Module, position: Position, ends: Mapping[str, Tensor]) -> None:
    """Make parameters of a network lines that begin where the parameters are.

    Args:
        network: whose parameters become lines, in place.
        position: that they look at.
        ends: for each of these parameters, by name, where the line's efficient end is at first.

    Raises:
        ValueError: if an end has not its parameter's shape.
    """
    for name, end in ends.items():
        path, _, attribute = name.rpartition(".")
        module = network.get_submodule(path)
        parameter = getattr(module, attribute)
        if parameter.shape != end.shape:
            raise ValueError(
                f"{name} has shape {tuple(end.shape)} at one end and {tuple(parameter.shape)} at the other; both ends "
                "must be networks of one shape"
            )
        end = end.detach().clone()
        parametrize.register_parametrization(module, attribute, Line(position))
        module.parametrizations[attribute].original1.copy_(end)
