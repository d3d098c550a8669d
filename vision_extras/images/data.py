# SPDX-License-Identifier: Apache-2.0
"""Labelled images in memory, and which of them are held out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from hylora.randomness import derive_key

__all__ = ["IGNORED", "Images", "Split"]

# The label of an image that counts for nothing, as torch's cross entropy has it.
IGNORED = -100


@dataclass(frozen=True)
class Images:
    """Images of one size with their labels, map-style.

    Args:
        pixels: [N, C, H, W], uint8, with 0 for the background.
        labels: [N], int64.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """An image [C, H, W], float32 in [0, 1], and its label."""
        return self.pixels[index].float() / 255, int(self.labels[index])

    def fingerprint(self) -> str:
        """A hash of every pixel and label, in their order."""
        digest = hashlib.sha256(self.pixels.numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Split:
    """Images to train on, and images held out.

    Args:
        train: to learn from.
        held_out: to evaluate on.
    """

    train: Images
    held_out: Images

    @classmethod
    def by_content(cls, images: Images, share: float) -> Split:
        """Hold out the images whose hash falls into a share of all hashes.

        An image is on the same side in every run, whatever the others are; one that is there twice is never on both.

        Args:
            images: all of them.
            share: about how much is held out, in [0, 1).
        """
        keys = [derive_key("held out", image.numpy().tobytes().hex()) for image in images.pixels]
        chosen = torch.tensor([key < share * 2**63 for key in keys])
        return cls(*(Images(images.pixels[side], images.labels[side]) for side in (~chosen, chosen)))
