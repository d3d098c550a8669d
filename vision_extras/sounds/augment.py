# SPDX-License-Identifier: Apache-2.0
"""Spectrograms changed at random while they are learned from (chapter 5, table 5.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hylora.training.feed import Batch, Collate
from hylora.training.fields import check_range
from vision_extras.images.mixing import mixed

__all__ = ["AugmentedSounds", "SoundAugmentRecipe", "add_noise", "mask_span"]


@dataclass(frozen=True, kw_only=True)
class SoundAugmentRecipe:
    """How spectrograms and their labels are changed at random. All of it is off by default.

    Where a sound begins is drawn in any case, and it rolls cyclically in time ("R" of table 5.6).

    Args:
        time_mask: one span of up to so many steps is masked (SpecAug of Park et al., 2019).
        frequency_mask: one span of up to so many bands is masked.
        noise: the most noise that is added ("N" of table 5.6): of each spectrogram a width between 0 and this is
            drawn, and for each of its values noise between 0 and that width, as for AST (Gong et al., 2021), which has
            0.1.
        mixup: alpha of the shares at which spectrograms are blended with others; 0 for none.
        cutmix: alpha of the shares at which rectangles of others are pasted; 0 for none. Where mixup is on too, each
            spectrogram gets one of them.
    """

    time_mask: int = 0
    frequency_mask: int = 0
    noise: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "time_mask", "frequency_mask", "noise", "mixup", "cutmix", least=0)


@dataclass(frozen=True)
class AugmentedSounds:
    """Makes batches of spectrograms that are changed at random. All that is drawn for one, its own generator gives.

    Called with rows, a generator for each and (steps, bands), it gives `input_values`, [B, steps, bands] in float32,
    and `labels` as `plain` has them; where spectrograms are mixed, they are [B, classes] in float32.

    Args:
        plain: makes batches of them as they are, normalised.
        recipe: of the changes.
        classes: how many labels there are.
    """

    plain: Collate
    recipe: SoundAugmentRecipe
    classes: int

    def __call__(self, rows: Sequence[Any], generators: Sequence[torch.Generator], shape: tuple[int, int]) -> Batch:
        batch, recipe = self.plain(rows, generators, shape), self.recipe
        sounds, labels = batch["input_values"], batch["labels"]
        for sound, draw in zip(sounds, generators, strict=True):
            mask_span(sound, recipe.time_mask, draw)
            mask_span(sound.T, recipe.frequency_mask, draw)
            add_noise(sound, recipe.noise, draw)
        if recipe.mixup or recipe.cutmix:
            shares = labels if labels.ndim > 1 else F.one_hot(labels, self.classes).float()
            images, labels = mixed(sounds[:, None], shares, generators, recipe.mixup, recipe.cutmix)
            sounds = images[:, 0]
        return {"input_values": sounds, "labels": labels}


def mask_span(sound: Tensor, most: int, draw: torch.Generator) -> None:
    """Mask a span of rows, in place: with 0, which is the mean of what is normalised.

    Args:
        sound: [N, M].
        most: the span has from none to so many of the N rows, each number as likely as every other; and it has no
            more of them than there are.
        draw: gives its width and its place.
    """
    if most:
        width = min(int(torch.randint(most + 1, (), generator=draw)), len(sound))
        first = int(torch.randint(len(sound) - width + 1, (), generator=draw))
        sound[first : first + width] = 0


def add_noise(sound: Tensor, most: float, draw: torch.Generator) -> None:
    """Add noise, in place, that is uniform between 0 and a width drawn between 0 and `most`."""
    if most:
        width = most * float(torch.rand((), generator=draw))
        sound += width * torch.rand(sound.shape, generator=draw)
