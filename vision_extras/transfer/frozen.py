# SPDX-License-Identifier: Apache-2.0
"""Linear finetuning: the classifier is trained, on features of a network that stays as it is (section 4.4.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hylora.training.evaluation import evaluation_mode
from hylora.training.feed import Batch, Collate, Share
from vision_extras.images import AugmentRecipe, Rows, Split, dealt
from vision_extras.metrics import find_head
from vision_extras.metrics.embeddings import penultimate
from vision_extras.recipe import ImageRecipe

__all__ = ["FeatureRows", "FeatureSplit", "cached_features", "stacked", "stays_the_same"]


@dataclass(frozen=True)
class FeatureRows:
    """Features in place of images.

    Args:
        values: [N, D], float32.
        labels: [N], int64.
        images: the fingerprint of what they are the features of.
    """

    values: Tensor
    labels: Tensor
    images: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.values[index], int(self.labels[index])

    def fingerprint(self) -> str:
        """That of the images."""
        return self.images


class FeatureSplit(NamedTuple):
    """Features of the images to train on and of those held out.

    Args:
        train: to learn from.
        held_out: to evaluate on.
    """

    train: FeatureRows
    held_out: FeatureRows


def stacked(rows: Sequence[tuple[Tensor, int]], generators: Sequence[torch.Generator | None], shape: object) -> Batch:
    """A batch of features: `images`, [B, D], and `labels`, [B]."""
    values, labels = zip(*rows, strict=True)
    return {"images": torch.stack(values), "labels": torch.tensor(labels)}


def stays_the_same(recipe: ImageRecipe) -> bool:
    """Whether a run shows each image always as it is, so that its features are always the same."""
    shapes = {*recipe.sampler.shapes(recipe.training.epochs), recipe.sampler.shape}
    return len(shapes) == 1 and dataclasses.replace(recipe.augment, label_smoothing=0.0) == AugmentRecipe()


def cached_features(
    network: nn.Module, split: Split, recipe: ImageRecipe, device: torch.device | str = "cpu"
) -> FeatureSplit | None:
    """What a network's classifier is given for each image, in one pass over all images; None if it does not end there.

    Every process computes all of them, in float32.

    Args:
        network: from images to logits.
        split: the images.
        recipe: of a run that shows images as they are.
        device: to compute on; the network stays on it.
    """
    head = find_head(network)
    if not isinstance(head, nn.Linear) or not _ends_in(network.to(device), head, split, recipe, device):
        return None
    views = split.augmented(dataclasses.replace(recipe.augment, label_smoothing=0.0)), split.plain
    rows = split.train, split.held_out
    return FeatureSplit(
        *(
            FeatureRows(_features(network, part, view, recipe, device), _labels(part), part.fingerprint())
            for part, view in zip(rows, views, strict=True)
        )
    )


def _labels(rows: Rows) -> Tensor:
    return torch.as_tensor(rows.labels)


@torch.no_grad()
def _ends_in(
    network: nn.Module, head: nn.Linear, split: Split, recipe: ImageRecipe, device: torch.device | str
) -> bool:
    """Whether a network's output is that of its last linear layer, which nothing follows."""
    image = split.plain([split.train[0]], [None], recipe.sampler.shape)["images"].to(device)
    with evaluation_mode(network), penultimate(network) as kept:
        logits = network(image)
    return kept[0].shape == (1, head.in_features) and torch.allclose(head(kept[0]), logits)


@torch.no_grad()
def _features(
    network: nn.Module, rows: Rows, collate: Collate, recipe: ImageRecipe, device: torch.device | str
) -> Tensor:
    size, workers = recipe.evaluation.batch_size, recipe.training.workers
    found = [torch.empty(0, find_head(network).in_features)]
    with evaluation_mode(network), penultimate(network) as kept:
        for batch in dealt(rows, collate, recipe.sampler.shape, size, Share(), workers):
            network(batch["images"].to(device))
            found.append(kept.pop().cpu())
    return torch.cat(found)
