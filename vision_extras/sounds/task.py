# SPDX-License-Identifier: Apache-2.0
"""Classifying sounds as a task of the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from hylora.training.feed import Batch, Share
from hylora.training.processes import share_of
from vision_extras.clips.clip import ClipSplit
from vision_extras.clips.collate import Sounds
from vision_extras.clips.dealing import dealt
from vision_extras.curricula import SamplerRecipe
from vision_extras.mavil import MavilForAudioClassification
from vision_extras.planned import PlannedTask
from vision_extras.sounds.augment import AugmentedSounds
from vision_extras.sounds.evaluation import predictions
from vision_extras.sounds.feature_extractor import SoundFeatureExtractor
from vision_extras.sounds.layer_decay import layered_groups
from vision_extras.sounds.metrics import mean_average_precision, top1
from vision_extras.sounds.recipe import SoundsRecipe

__all__ = ["SoundClassification", "SoundTask", "losses"]


def losses(logits: Tensor, labels: Tensor, kind: Literal["ce", "bce"]) -> Tensor:
    """The loss of each clip, [B].

    Args:
        logits: [B, K].
        labels: [B] in int64; or [B, K] in float32, the share of each class, or which of several there are.
        kind: cross entropy, or the mean over classes of the binary one.
    """
    if kind == "ce":
        return F.cross_entropy(logits, labels, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, _shares(logits, labels), reduction="none").mean(1)


def _shares(logits: Tensor, labels: Tensor) -> Tensor:
    """Labels as shares of classes."""
    return (labels if labels.ndim > 1 else F.one_hot(labels, logits.shape[1])).to(logits.dtype)


class SoundClassification(nn.Module):
    """A classifier whose forward pass gives its loss.

    Args:
        network: the classifier.
        loss: see `losses`.
        head_only: whether its last layer alone is trained; the encoder then always is in evaluation mode.
    """

    def __init__(self, network: MavilForAudioClassification, loss: Literal["ce", "bce"], head_only: bool) -> None:
        super().__init__()
        self.network = network
        self._loss, self._head_only = loss, head_only
        if head_only:
            network.requires_grad_(False).classifier.requires_grad_(True)
        self.train()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self._head_only:
            self.network.eval()
        return self

    def forward(self, input_values: Tensor, labels: Tensor | None = None) -> tuple[Tensor, int] | Tensor:
        """Summed loss and count of a batch; without labels its logits, [B, K].

        Args:
            input_values: [B, T, bands].
            labels: as `losses` has them.
        """
        logits = self.network(input_values).logits.float()
        if labels is None:
            return logits
        return losses(logits, labels, self._loss).sum(), len(labels)


class SoundTask(PlannedTask):
    """Classification of sounds.

    Args:
        model: the classifier with its loss.
        split: clips to train on and to evaluate on.
        recipe: of the run.
        share: this process's share of each update.
    """

    unit = rows_are = "clips"

    def __init__(
        self, model: SoundClassification, split: ClipSplit, recipe: SoundsRecipe, share: Share | None = None
    ) -> None:
        self._split = split
        self._plain = Sounds(recipe.clips, len(split.classes) if split.multilabel else None)
        collate = AugmentedSounds(self._plain, recipe.augment, len(split.classes))
        # Every update has the reference batch.
        sampler = SamplerRecipe(side=(recipe.clips.steps, recipe.clips.bands))
        super().__init__(model, split.train, collate, recipe, sampler, share or Share())

    def count(self, batch: Batch) -> int:
        """Clips."""
        return len(batch["labels"])

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Weight decay spares norms and biases, and learning rates fall from the classifier to the first layer."""
        optimizer, layers = self._recipe.optimizer, self.model.network.config.audio_layers
        return layered_groups(self.model, weight_decay, optimizer.lr, optimizer.layer_decay, layers)

    def evaluate(self, model: nn.Module, accelerator: Accelerator, check_stop: Callable[[], None]) -> dict[str, float]:
        """Loss, top-1 accuracy, and average precision as a mean over classes (`map`), on the held-out clips."""
        held_out, recipe = self._split.held_out, self._recipe
        if not len(held_out):
            return {}
        size, workers = recipe.evaluation.batch_size, recipe.training.workers
        batches = dealt(held_out, self._plain, None, size, share_of(accelerator), workers)
        logits, labels = predictions(model, batches, accelerator, check_stop)
        logits, loss = logits.double(), recipe.loss
        truth = _shares(logits, labels)
        # Each class ranks the clips: by what is said of it alone, or by its share of what is said of all.
        scores = logits if loss == "bce" else logits.softmax(1)
        return {
            "loss": float(losses(logits, truth, loss).mean()),
            "accuracy": top1(scores, truth > 0),
            "map": mean_average_precision(scores, truth > 0),
        }

    def describe(self) -> Mapping[str, Any]:
        """How many clips there are to train on and to evaluate on, and of which classes."""
        split = self._split
        return {
            "train": len(split.train),
            "held_out": len(split.held_out),
            "classes": list(split.classes),
            "multilabel": split.multilabel,
            "left_out": list(split.left_out),
        }

    def save(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """Write the classifier, with what makes spectrograms for it: transformers' pipelines read both."""
        if state is not None:
            state = {name.removeprefix("network."): value for name, value in state.items()}
        SoundFeatureExtractor.of(self._recipe.clips).save_pretrained(folder)
        self.model.network.save_pretrained(folder, state_dict=state)
