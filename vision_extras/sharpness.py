# SPDX-License-Identifier: Apache-2.0
"""Gradients at the worst point nearby (sharpness-aware minimisation, SAM)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn

__all__ = ["ascended"]


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
