# SPDX-License-Identifier: Apache-2.0
"""Images that get labels drawn at random, to see what a network memorises (section 3.6.2)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from hylora.randomness import generator
from vision_extras.images.data import Rows

__all__ = ["Relabelled", "relabel"]


@dataclass(frozen=True)
class Relabelled:
    """Those images of a training set that got random labels.

    Args:
        rows: the images, each with its number from 0 in place of a label.
        drawn: the labels that are learned from, [N].
        true: the labels they had, [N].
    """

    rows: Rows
    drawn: Tensor
    true: Tensor


def relabel(rows: Rows, classes: int, count: int, seed: int) -> tuple[Rows, Relabelled]:
    """Draw some images, and for each of them a label, which may be the one it had.

    Args:
        rows: of the training set, of a class of this package.
        classes: how many labels there are, each as probable.
        count: of images.
        seed: says which images and labels; in every process the same.

    Returns:
        The training set with the drawn labels, and these images alone.

    Raises:
        ValueError: if there are not so many images.
    """
    if count > len(rows):
        raise ValueError(f"random_labels={count} must be at most the {len(rows)} images to learn from")
    draw = generator("random labels", seed)
    chosen = torch.randperm(len(rows), generator=draw)[:count].sort().values
    drawn = torch.randint(classes, (count,), generator=draw)
    true, labels = rows.labels[chosen], rows.labels.clone()
    labels[chosen] = drawn
    numbered = dataclasses.replace(rows, labels=torch.full_like(labels, -1).index_copy(0, chosen, torch.arange(count)))
    side = numbered.labels >= 0
    return dataclasses.replace(rows, labels=labels), Relabelled(numbered.select(side), drawn, true)
