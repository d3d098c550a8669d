# SPDX-License-Identifier: Apache-2.0
"""Classifying images as a task of the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from hylora.training.evaluation import deal, totals
from hylora.training.feed import Batch, RowFeed, Share
from hylora.training.moment import Moment
from hylora.training.optimizer import decay_matrices, trainable
from hylora.training.processes import share_of
from hylora.training.task import Task
from vision_extras.curriculum import Curriculum
from vision_extras.images import IGNORED, Augmented, Resized, Split
from vision_extras.models import ResidualNetwork
from vision_extras.models.residual import CONFIG_NAME
from vision_extras.pruning import Masks
from vision_extras.recipe import ImageRecipe
from vision_extras.sharpness import ascended

__all__ = ["Classification", "ImageTask"]


class Classification(nn.Module):
    """A network whose forward pass gives its loss, and the masks of its weights.

    Args:
        network: from images to logits.
    """

    def __init__(self, network: ResidualNetwork) -> None:
        super().__init__()
        self.network = network
        self.masks = Masks()

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Summed cross entropy and count of a batch; in evaluation also how many were told right.

        Args:
            images: [B, C, H, W].
            labels: [B]; -100 is ignored.
        """
        logits = self.network(images)
        loss_sum = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
        count = (labels != IGNORED).sum()
        return (loss_sum, count) if self.training else (loss_sum, count, (logits.argmax(-1) == labels).sum())


class ImageTask(Task):
    """Classification with everything that a recipe schedules: resolution, depth and sparsity.

    Args:
        model: the network with its loss.
        split: images to train on and to evaluate on.
        recipe: of the run.
        share: this process's share of each update.
    """

    unit = "images"
    last_file = CONFIG_NAME

    def __init__(self, model: Classification, split: Split, recipe: ImageRecipe, share: Share | None = None) -> None:
        self.model = model
        self._split = split
        self._recipe = recipe
        self._curriculum = Curriculum(recipe)
        self._cover()
        self.feed = RowFeed(
            split.train,
            Augmented(recipe.images.shift),
            self._curriculum.window,
            share,
            recipe.training.workers,
        )

    def _cover(self) -> None:
        if self._recipe.pruning.sparsity:
            self.model.masks.cover(self.model.network.prunable())

    def count(self, batch: Batch) -> int:
        """Images."""
        return len(batch["labels"])

    def begin(self, moment: Moment) -> bool:
        """Grow the network if it is time."""
        grown = self.model.network.grow(self._curriculum.blocks(moment), moment.generator("growth"))
        if grown:
            self._cover()
        return grown

    def gradients(self, accumulate: Callable[[], Tensor]) -> Tensor:
        """Those of the weights that stay; taken at the worst point nearby if the recipe asks for that."""
        loss_sum = self._accumulate(accumulate)
        if self._recipe.sharpness.radius:
            with ascended(trainable(self.model).values(), self._recipe.sharpness.radius):
                self._accumulate(accumulate)
        return loss_sum

    def _accumulate(self, accumulate: Callable[[], Tensor]) -> Tensor:
        loss_sum = accumulate()
        if self._recipe.pruning.sparsity:
            weights = self.model.network.prunable()
            self.model.masks.apply({name: weight.grad for name, weight in weights.items()})
        return loss_sum

    def end(self, moment: Moment) -> None:
        """Prune what is due, and keep at zero what momentum and weight decay moved."""
        if self._recipe.pruning.sparsity:
            weights = self.model.network.prunable()
            self.model.masks.prune(weights, self._curriculum.sparsity(moment))
            self.model.masks.apply(weights)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Weight decay spares norms, biases and scales."""
        return decay_matrices(self.model, weight_decay)

    def scheduled(self, moment: Moment) -> dict[str, float]:
        """Resolution, blocks and sparsity."""
        found = {"resolution": self._curriculum.side(moment), "blocks": self._curriculum.blocks(moment)}
        return {**found, "sparsity": self._curriculum.sparsity(moment)}

    def evaluate(self, model: nn.Module, accelerator: Accelerator, check_stop: Callable[[], None]) -> dict[str, float]:
        """Loss and accuracy on the held-out images, at the final resolution."""
        if not len(self._split.held_out):
            return {}
        size = self._recipe.evaluation.batch_size
        groups = deal(self._split.held_out, size, share_of(accelerator), lambda row: (row[0], IGNORED))
        batches = (Resized()(rows, [None] * len(rows), self._curriculum.final_side) for rows in groups)
        loss_sum, count, right = totals(model, batches, accelerator, check_stop)
        return {"loss": loss_sum / count, "accuracy": right / count}

    def identity(self) -> Mapping[str, str]:
        """A fingerprint of the images."""
        return {"images": self._split.train.fingerprint()}

    def describe(self) -> Mapping[str, Any]:
        """How many images there are to train on and to evaluate on."""
        return {"train": len(self._split.train), "held_out": len(self._split.held_out)}

    def save(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """Write the network, which `ResidualNetwork.load` reads."""
        if state is not None:
            prefix = "network."
            state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        self.model.network.save(folder, state)
