# SPDX-License-Identifier: Apache-2.0
"""Compressions of a network in one step, by name: a share of weights, a pattern of N:M, or a number of bits."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from vision_extras.masks import Scope, check_level, gone, prunable
from vision_extras.models.grid import Grid

__all__ = ["bits_of", "check_compression", "check_levels", "compress", "grids", "share_range"]

_BITS = re.compile(r"([2-8])bit")
_RANGE = re.compile(r"(0?\.\d+|0)-(0?\.\d+)")


def check_compression(level: float | str) -> None:
    """Refuse what is no compression.

    Raises:
        ValueError: naming it.
    """
    if bits_of(level) is None:
        check_level(level)


def bits_of(level: float | str) -> int | None:
    """The bits of a level such as "4bit", from 2 to 8; None for others."""
    found = _BITS.fullmatch(level) if isinstance(level, str) else None
    return int(found[1]) if found else None


def share_range(level: float | str) -> tuple[float, float] | None:
    """The least and the greatest share of a range such as "0.3-0.9"; None for other levels.

    Raises:
        ValueError: if the least is not below the greatest.
    """
    found = _RANGE.fullmatch(level) if isinstance(level, str) else None
    if found is None:
        return None
    low, high = map(float, found.groups())
    if not low < high:
        raise ValueError(f"level={level!r} must name the smaller share before the greater")
    return low, high


def check_levels(network: nn.Module, levels: Collection[float | str], keep: Collection[str]) -> None:
    """Refuse levels that a network cannot be compressed to.

    Args:
        network: any module; it may be on the meta device.
        levels: compressions, and ranges of shares.
        keep: modules that are not compressed, by name.

    Raises:
        ValueError: naming the field: no weight may go, a name in `keep` is unknown, a pattern divides no weight.
    """
    weights = prunable(network, keep)
    if not weights:
        raise ValueError(
            f"levels={[*levels]} compress weights of more than one dimension, and the network has none; leave them out"
        )
    scores = {name: torch.empty_like(weight, device="meta") for name, weight in weights.items()}
    for level in levels:
        if isinstance(level, str) and bits_of(level) is None and share_range(level) is None:
            try:
                gone(scores, level)
            except ValueError as error:
                raise ValueError(f"levels: {error}") from error


@torch.no_grad()
def compress(weights: Mapping[str, Tensor], level: float | str, scope: Scope = "global") -> dict[str, Tensor] | None:
    """Compress weights in place.

    Args:
        weights: by name, each of more than one dimension.
        level: see `vision_extras.masks.gone` for shares and patterns; of bits see `grids`.
        scope: of a share.

    Returns:
        For each weight a boolean tensor of its shape, true where it is gone; None for bits, which leave none away.

    Raises:
        ValueError: if there is no such level.
    """
    bits = bits_of(level)
    if bits is not None:
        for weight, grid in zip(weights.values(), grids(weights, bits).values(), strict=True):
            weight.copy_(grid.values(grid.integers(weight)))
        return None
    chosen = gone({name: weight.detach().abs() for name, weight in weights.items()}, level, scope)
    for name, weight in weights.items():
        weight.masked_fill_(chosen[name], 0.0)
    return chosen


def grids(weights: Mapping[str, Tensor], bits: int) -> dict[str, Grid]:
    """For each weight a grid about 0 for each of its output channels, up to the greatest magnitude there.

    Args:
        weights: by name, [outputs, ...] each.
        bits: of an integer.
    """
    found = {}
    for name, weight in weights.items():
        greatest = weight.detach().abs().flatten(1).amax(1).view(-1, *(1 for _ in weight.shape[1:]))
        scale = greatest / (2 ** (bits - 1) - 1)
        found[name] = Grid(scale, torch.zeros_like(scale), bits)
    return found
