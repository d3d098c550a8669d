# SPDX-License-Identifier: Apache-2.0
"""Patches with noise, of which as much as a step of a diffusion has (sections 5.1.2 and 5.5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["diffused", "noise_for", "signal_shares"]


@lru_cache(maxsize=16)
def signal_shares(
    steps: int, first: float, last: float, exponent: float, device: torch.device | str = "cpu"
) -> Tensor:
    """How much of a patch's variance is left at each step: the product of 1 - beta ** phi up to that.

    Args:
        steps: T.
        first: beta of step 1.
        last: beta of step T; those between lie on a line.
        exponent: phi; below 1 there is more noise, most so at the first steps.
        device: to put them on.

    Returns:
        [steps], float32: alpha-bar of step 1, 2, ..., falling.
    """
    betas = torch.linspace(first, last, steps, dtype=torch.float64, device="cpu") ** exponent
    return (1 - betas).cumprod(0).float().to(device)


def diffused(patches: Tensor, noise: Tensor, shares: Tensor) -> Tensor:
    """sqrt(alpha-bar) x_0 + sqrt(1 - alpha-bar) epsilon.

    Args:
        patches: x_0, [B, m, P].
        noise: epsilon, likewise.
        shares: alpha-bar of each row's step, [B].
    """
    shares = shares[:, None, None].to(patches.dtype)
    return shares.sqrt() * patches + (1 - shares).sqrt() * noise


def noise_for(patches: Tensor, seeds: Sequence[int] | None) -> Tensor:
    """Standard normal noise in the shape of patches.

    Args:
        patches: [B, m, P].
        seeds: of each row: its noise is drawn from its own, so that it depends on no other row. None draws from
            torch's global generator.
    """
    if seeds is None:
        return torch.randn_like(patches)
    draw, noise = torch.Generator(patches.device), torch.empty_like(patches)
    for row, seed in zip(noise, seeds, strict=True):
        row.normal_(generator=draw.manual_seed(seed))
    return noise
