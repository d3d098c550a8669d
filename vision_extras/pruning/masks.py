# SPDX-License-Identifier: Apache-2.0
"""Which weights may be pruned, and how their masks are made, held and saved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn

from hylora.training.optimizer import trainable

__all__ = ["Masks", "Scope", "prunable", "smallest", "smallest_of"]

Scope = Literal["global", "local"]


def prunable(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that pruning may take: trained parameters of more than one dimension, by name; tied ones once."""
    return {name: parameter for name, parameter in trainable(network).items() if parameter.ndim > 1}


def smallest(scores: Mapping[str, Tensor], sparsity: float, scope: Scope) -> dict[str, Tensor]:
    """Where the smallest scores are, as many as make up a share of all.

    Exactly `floor(sparsity * n)` of n are chosen, with the share taken as the decimal fraction that it reads as. Equal
    scores are chosen in the order of the tensors, and in a tensor from its first element on.

    Args:
        scores: a score for each weight, by name of the tensor.
        sparsity: the share, in [0, 1).
        scope: whether n counts the weights of all tensors together ("global"), or of each ("local").

    Returns:
        For each tensor, a boolean one of its shape.

    Raises:
        ValueError: if the sparsity is outside of [0, 1).
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity={sparsity!r} must be at least 0 and below 1")
    if scope == "local":
        return {name: smallest_of(score.flatten(), sparsity).view_as(score) for name, score in scores.items()}
    chosen = smallest_of(torch.cat([score.flatten() for score in scores.values()]), sparsity)
    parts = chosen.split([score.numel() for score in scores.values()])
    return {name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)}


# How many elements there are must be known, which no compiled graph does.
@torch.compiler.disable
def smallest_of(scores: Tensor, sparsity: float) -> Tensor:
    """Where the smallest of a list of scores [N] are, as a boolean tensor [N]; see `smallest`."""
    # In binary, 0.29 of 100 would be 28.
    count = math.floor(Fraction(str(sparsity)) * scores.numel())
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(count).values
    chosen = scores < threshold
    ties = (scores == threshold).nonzero()[: count - int(chosen.sum()), 0]
    chosen[ties] = True
    return chosen


class Masks(nn.Module):
    """Which weights stay: for each named weight a boolean buffer of its shape, true where it stays.

    The buffers are part of the state of the model that holds this module, so that checkpoints have them.
    """

    def cover(self, weights: Mapping[str, Tensor]) -> None:
        """Give weights masks of their shapes. Where there was none, or none so large, everything stays that is new.

        A weight that grew is taken to hold its former values in its leading corner.

        Raises:
            ValueError: if a weight has fewer elements along a dimension than its mask.
        """
        for name, weight in weights.items():
            before = self._buffers.get(_key(name))
            if before is not None and before.shape == weight.shape:
                continue
            mask = torch.ones_like(weight, dtype=torch.bool)
            if before is not None:
                if any(old > new for old, new in zip(before.shape, weight.shape, strict=True)):
                    raise ValueError(
                        f"{name} has shape {tuple(weight.shape)}, and its mask {tuple(before.shape)}: a weight that "
                        "is pruned may grow, and not shrink"
                    )
                mask[tuple(map(slice, before.shape))] = before
            self.register_buffer(_key(name), mask)

    @torch.no_grad()
    def remove(self, chosen: Mapping[str, Tensor]) -> None:
        """Take weights away, in addition to those that are gone; `apply` then makes them zero.

        Args:
            chosen: true where a weight goes, by name; each is covered.
        """
        for name, gone in chosen.items():
            self[name].logical_and_(~gone)

    @torch.no_grad()
    def apply(self, tensors: Mapping[str, Tensor | None]) -> None:
        """Set to zero, in weights or their gradients, what does not stay. None is passed over."""
        for name, tensor in tensors.items():
            if tensor is not None:
                tensor.masked_fill_(~self[name], 0.0)

    def sparsity(self) -> float:
        """The share of all covered weights that is gone; 0 where none is covered."""
        masks = list(self.buffers())
        total = sum(mask.numel() for mask in masks)
        # One number comes off the device, not one for each mask: this is asked in every update.
        return 1 - int(sum(mask.sum() for mask in masks)) / total if total else 0.0

    def __getitem__(self, name: str) -> Tensor:
        """The mask of a weight."""
        return self._buffers[_key(name)]


def _key(name: str) -> str:
    """A weight's name as that of a buffer, in which torch allows no dots."""
    return name.replace(".", "/")
