# SPDX-License-Identifier: Apache-2.0
"""What a masked audio-video learner is trained by (section 5.1.1)."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["info_nce", "reconstruction", "similarities"]


def reconstruction(predicted: Tensor, masked: Tensor, patches: int) -> Tensor:
    """The squared error of masked patches, each the mean over its numbers, summed and divided by all patches.

    Args:
        predicted: [B, m, P].
        masked: the true ones, likewise.
        patches: how many there are, M or N: visible ones count as having no error.

    Returns:
        [B], float32.
    """
    return (predicted.float() - masked.float()).square().mean(dim=2).sum(dim=1) / patches


def info_nce(one: Tensor, other: Tensor, temperature: float, everyone: tuple[Tensor, Tensor, int]) -> Tensor:
    """How well each clip's embedding tells its partner from those of the other clips, in both directions.

    Args:
        one: [b, D].
        other: likewise; rows of the same number belong together.
        temperature: that cosine similarities are divided by.
        everyone: the same of all clips that are told from, [B, D] both, and the number of the first of ours there.

    Returns:
        [b], float32: the mean of the two cross entropies; 0 for a single clip, which has no other to be told from.
    """
    ones, others, first = everyone
    partner = first + torch.arange(len(one), device=one.device)
    directions = (similarities(one, others), similarities(other, ones))
    return sum(F.cross_entropy(each / temperature, partner, reduction="none") for each in directions) / 2


def similarities(one: Tensor, other: Tensor) -> Tensor:
    """Cosine similarities of all pairs of embeddings [b, D] and [B, D]: [b, B] in float32."""
    device = one.device.type
    # Autocast would round what embeddings that lie close together differ in. There is none where nothing is computed.
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        return F.normalize(one.float(), dim=1) @ F.normalize(other.float(), dim=1).T
