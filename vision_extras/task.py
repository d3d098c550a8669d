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
from hylora.training.optimizer import decay_matrices
from hylora.training.processes import share_of
from hylora.training.task import Task
from vision_extras.curricula import Plan
from vision_extras.images import IGNORED, Augmented, Split
from vision_extras.models import save_network
from vision_extras.pruning import Masks
from vision_extras.recipe import ImageRecipe
from vision_extras.sharpness import Sharpness

__all__ = ["Classification", "ImageTask"]


class Classification(nn.Module):
    """A network whose forward pass gives its loss, and the masks of its weights.

    Args:
        network: from images to logits.
    """

    def __init__(self, network: nn.Module) -> None:
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
    """Classification, with the methods that a recipe asks for.

    Args:
        model: the network with its loss.
        split: images to train on and to evaluate on.
        recipe: of the run.
        share: this process's share of each update.
    """

    unit = "images"
    last_file = "config.json"

    def __init__(self, model: Classification, split: Split, recipe: ImageRecipe, share: Share | None = None) -> None:
        share = share or Share()
        self.model = model
        self._split = split
        self._recipe = recipe
        loop = recipe.training
        self.plan = Plan(
            recipe.sampler,
            len(split.train),
            loop.epochs,
            loop.global_batch_size,
            loop.batch_size,
            loop.seed,
            share.world_size,
        )
        self.steps = self.plan.steps
        plain = split.plain
        collate = Augmented(plain.mean, plain.std, plain.crop, recipe.augment, len(split.classes))
        self.feed = RowFeed(split.train, collate, self.plan.window, share, loop.workers)
        self.methods = []
        if recipe.sharpness.radius:
            self.methods.append(Sharpness(model, recipe.sharpness.radius))

    def count(self, batch: Batch) -> int:
        """Images."""
        return len(batch["labels"])

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Weight decay spares norms, biases and scales."""
        return decay_matrices(self.model, weight_decay)

    def scheduled(self, moment: Moment) -> dict[str, float]:
        """The epoch, and the images' height and width."""
        height, width = self.plan.window(moment).shape
        return {"epoch": self.plan.epoch(moment.step), "height": height, "width": width}

    def evaluation_due(self, step: int, every: int) -> bool:
        """`every` counts epochs."""
        epoch = self.plan.epoch(step - 1) + 1
        return every > 0 and step == self.plan.first_step(epoch) and epoch % every == 0

    def evaluate(self, model: nn.Module, accelerator: Accelerator, check_stop: Callable[[], None]) -> dict[str, float]:
        """Loss and accuracy on the held-out images, at the reference resolution."""
        if not len(self._split.held_out):
            return {}
        size, side = self._recipe.evaluation.batch_size, self._recipe.sampler.side
        groups = deal(self._split.held_out, size, share_of(accelerator), lambda row: (row[0], IGNORED))
        batches = (self._split.plain(rows, [None] * len(rows), (side, side)) for rows in groups)
        loss_sum, count, right = totals(model, batches, accelerator, check_stop)
        return {"loss": loss_sum / count, "accuracy": right / count}

    def identity(self) -> Mapping[str, str]:
        """A fingerprint of the images."""
        return {"images": self._split.train.fingerprint()}

    def describe(self) -> Mapping[str, Any]:
        """How many images there are to train on and to evaluate on, and which were left out."""
        return {
            "train": len(self._split.train),
            "held_out": len(self._split.held_out),
            "unreadable": list(self._split.unreadable),
        }

    def results(self) -> Mapping[str, Any]:
        """Nothing that the loop does not know."""
        return {}

    def save(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """Write the network, which `vision_extras.models.load_network` reads."""
        if state is not None:
            prefix = "network."
            state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        save_network(self.model.network, folder, state)
