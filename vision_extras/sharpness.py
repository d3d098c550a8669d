# SPDX-License-Identifier: Apache-2.0
"""Gradients at the worst point nearby (sharpness-aware minimisation, SAM)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hylora.training.fields import check_range
from hylora.training.method import Method
from hylora.training.optimizer import trainable

__all__ = ["Sharpness", "SharpnessRecipe", "ascended"]


@dataclass(frozen=True, kw_only=True)
class SharpnessRecipe:
    """Sharpness-aware minimisation, at the price of a second pass.

    Args:
        radius: how far from the weights the gradients are taken; 0 for ordinary ones.
    """

    radius: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "radius", least=0)


class Sharpness(Method):
    """Takes each update's gradients at the worst point nearby.

    Args:
        model: what is trained.
        radius: how far from the weights.
    """

    def __init__(self, model: nn.Module, radius: float) -> None:
        self._model = model
        self._radius = radius

    def gradients(self, accumulate: Callable[[], Tensor]) -> Tensor:
        """Those at the worst point; the loss is that of the weights themselves."""
        loss_sum = accumulate()
        with ascended(trainable(self._model).values(), self._radius):
            accumulate()
        return loss_sum


@contextlib.contextmanager
def ascended(parameters: Iterable[nn.Parameter], radius: float) -> Iterator[None]:
    """Inside the block, parameters are moved along their gradients by `radius`, and the gradients are gone.

    After it the parameters are what they were, bit for bit; gradients that were made inside stay.

    Args:
        parameters: with the gradients of the whole update; those without one stay where they are.
        radius: length of the move, over all parameters together.
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    before = [parameter.detach().clone() for parameter in moved]
    with torch.no_grad():
        norm = torch.stack([parameter.grad.norm() for parameter in moved]).norm()
        for parameter in moved:
            parameter.add_(parameter.grad * (radius / (norm + 1e-12)))
            parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(moved, before, strict=True):
                parameter.copy_(value)
