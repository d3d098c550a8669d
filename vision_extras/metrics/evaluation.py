# SPDX-License-Identifier: Apache-2.0
"""Evaluating a classifier on images: what it says of them, at which resolution, and how much their views differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hylora.training.evaluation import totals
from hylora.training.processes import share_of
from vision_extras.images import IGNORED, Resized, Rows, dealt
from vision_extras.metrics.agreement import agreement_metrics, agreement_sums
from vision_extras.metrics.embeddings import embedding_metrics, embedding_sums, penultimate, views_of
from vision_extras.metrics.predictions import prediction_metrics, prediction_sums

__all__ = ["ImageEvaluation"]


@dataclass(frozen=True)
class ImageEvaluation:
    """Evaluates a classifier on images, which are dealt to the processes; every one must call the same methods.

    Args:
        classify: from images [B, C, H, W] and labels [B] to logits [B, K]; in evaluation mode.
        images: to evaluate on, at least one.
        plain: makes batches of them.
        batch_size: images per process and forward pass.
        accelerator: of the run.
        check_stop: called before each batch.
        workers: processes that make batches ahead, as in `RowFeed`.
    """

    classify: Callable[[Tensor, Tensor], Tensor]
    images: Rows
    plain: Resized
    batch_size: int
    accelerator: Accelerator
    check_stop: Callable[[], Any] = lambda: None
    workers: int | None = None

    def predictions(self, shape: tuple[int, int]) -> dict[str, float]:
        """Metrics of the predictions, as `prediction_metrics` has them, in one pass over the images.

        Args:
            shape: height and width that images are resized to.
        """

        def measure(images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
            return prediction_sums(self.classify(images, labels), labels)

        return prediction_metrics(*self._totals(measure, shape))

    def accuracies(self, sides: Iterable[int]) -> dict[str, float]:
        """The accuracy at each resolution, by its side in pixels (section 4.2.2, metric 4; figure 4.3c)."""
        return {str(side): self.predictions((side, side))["accuracy"] for side in sides}

    def accuracy_by(self, labellings: Mapping[str, Tensor], shape: tuple[int, int]) -> dict[str, float]:
        """The accuracy by each of several labellings of the images, whose own labels are their numbers.

        Args:
            labellings: by name the label of each image, [N].
            shape: height and width that images are resized to.
        """

        def measure(images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
            told, numbers = self.classify(images, labels).argmax(dim=-1).cpu(), labels.cpu()
            told, numbers = told[numbers != IGNORED], numbers[numbers != IGNORED]
            return tuple((told == by[numbers]).sum() for by in labellings.values())

        right = self._totals(measure, shape)
        return {name: float(count) / len(self.images) for name, count in zip(labellings, right, strict=True)}

    def agreement(self, other: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, int]) -> dict[str, float]:
        """How much another classifier says the same, as `agreement_metrics` has it; that is the dense one of the two.

        Args:
            other: as `classify`; it may be the same network, with other weights while it is called.
            shape: height and width that images are resized to.
        """

        def measure(images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
            return agreement_sums(self.classify(images, labels), other(images, labels), labels)

        return agreement_metrics(*self._totals(measure, shape))

    def embeddings(self, network: nn.Module, shape: tuple[int, int]) -> dict[str, float]:
        """How far embeddings move, as `embedding_metrics` has it, in a pass over the images for each view.

        Args:
            network: whose embeddings are meant, a part of what classifies.
            shape: height and width that images are resized to.

        Raises:
            ValueError: if the network has no classifier that can be told.
        """

        def measure(images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
            with penultimate(network) as kept:
                for view in views_of(images):
                    self.classify(view, labels)
            return embedding_sums(torch.stack(kept).cpu()[:, labels.cpu() != IGNORED])

        return embedding_metrics(*self._totals(measure, shape))

    def _totals(self, measure: Callable[..., tuple[Tensor, ...]], shape: tuple[int, int]) -> list[Tensor]:
        share = share_of(self.accelerator)
        batches = dealt(self.images, self.plain, shape, self.batch_size, share, self.workers)
        return totals(measure, batches, self.accelerator, self.check_stop)
