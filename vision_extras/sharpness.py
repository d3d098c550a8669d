# SPDX-License-Identifier: Apache-2.0
"""Gradients at the worst point nearby (sharpness-aware minimisation, SAM)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hylora.training.fields import check_range
from hylora.training.method import Method
from hylora.training.optimizer import trainable
from vision_extras.batch_norms import held_statistics
from vision_extras.copies import restored

__all__ = ["Sharpness", "SharpnessRecipe", "ascend", "ascend_by_length"]


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
        """Those at the worst point; loss and batch statistics are those of the weights themselves."""
        loss_sum, weights = accumulate(), trainable(self._model)
        with restored(weights):
            ascend_by_length([*weights.values()], self._radius)
            with held_statistics(self._model):
                accumulate()
        return loss_sum


@torch.no_grad()
def ascend(parameters: Iterable[nn.Parameter], factor: float | Tensor) -> None:
    """Move parameters by a factor of their gradients, and drop these. Those without one stay where they are."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.add_(parameter.grad * factor)
            parameter.grad = None


def ascend_by_length(parameters: Sequence[nn.Parameter], length: float) -> None:
    """Move parameters along the direction of their gradients, by a length over all of them together."""
    norm = torch.stack([parameter.grad.norm() for parameter in parameters if parameter.grad is not None]).norm()
    ascend(parameters, length / (norm + 1e-12))
