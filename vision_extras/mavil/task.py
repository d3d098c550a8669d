# SPDX-License-Identifier: Apache-2.0
"""Learning from masked clips as a task of the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hylora.training.evaluation import totals
from hylora.training.feed import Batch, Share
from hylora.training.moment import Moment
from hylora.training.processes import share_of
from vision_extras.clips.clip import ClipSplit
from vision_extras.clips.collate import SoundAndFrames, Sounds
from vision_extras.clips.dealing import dealt
from vision_extras.mavil.losses import similarities
from vision_extras.mavil.masking import Masked
from vision_extras.mavil.model import MavilForPreTraining, MavilOutput
from vision_extras.mavil.operations import training_flops
from vision_extras.mavil.recipe import MavilRecipe
from vision_extras.planned import PlannedTask

__all__ = ["MavilTask", "SelfSupervised"]

_LOSSES = ("loss", "audio_loss", "video_loss", "inter_loss", "intra_loss")


class SelfSupervised(nn.Module):
    """A masked learner whose forward pass gives what the loop takes.

    Args:
        network: the learner.
    """

    def __init__(self, network: MavilForPreTraining) -> None:
        super().__init__()
        self.network = network

    def forward(self, counted: Tensor | None = None, **batch: Tensor) -> tuple[Tensor, ...]:
        """Summed loss and count of a batch; in evaluation those of each loss, and of the sounds that find their video.

        Args:
            counted: in evaluation, which clips count, [B] of bool.
            **batch: as `MavilForPreTraining` takes it.
        """
        found = self.network(**batch)
        if self.training:
            return found.loss.sum(), torch.tensor(len(found.loss))
        sums = [(getattr(found, name) * counted).sum() for name in _LOSSES if getattr(found, name) is not None]
        if found.video_embedding is not None:
            sums.append((_retrieved(found) * counted).sum())
        return counted.sum(), *sums


def _retrieved(found: MavilOutput) -> Tensor:
    """Whose own video is nearest to their sound, of all in the batch, [B] of bool."""
    nearest = similarities(found.audio_embedding, found.video_embedding).argmax(1)
    return nearest == torch.arange(len(nearest), device=nearest.device)


class MavilTask(PlannedTask):
    """Learning from masked clips.

    Args:
        model: the learner with its losses.
        split: clips to train on and to evaluate on.
        recipe: of the run.
        share: this process's share of each update.
    """

    unit = rows_are = "clips"

    def __init__(
        self, model: SelfSupervised, split: ClipSplit, recipe: MavilRecipe, share: Share | None = None
    ) -> None:
        clips = (SoundAndFrames if recipe.model.video else Sounds)(recipe.clips)
        self._collate = Masked(clips, model.network.config)
        self._split = split
        super().__init__(model, split.train, self._collate, recipe, recipe.mask, share or Share())

    def count(self, batch: Batch) -> int:
        """Clips."""
        return len(batch["input_values"])

    def scheduled(self, moment: Moment) -> dict[str, float]:
        """The epoch, and the share of patches that is masked."""
        return {**super().scheduled(moment), "mask_ratio": self.plan.window(moment).shape}

    def evaluate(self, model: nn.Module, accelerator: Accelerator, check_stop: Callable[[], None]) -> dict[str, float]:
        """The losses on held-out clips at the last epoch's share of masks, and how many sounds find their video.

        `retrieval` is the share of clips whose own video is nearest to their sound, of all in the same batch.
        """
        held_out, recipe = self._split.held_out, self._recipe
        if not len(held_out):
            return {}
        size, workers = recipe.evaluation.batch_size, recipe.training.workers
        batches = dealt(held_out, self._collate, recipe.mask.last, size, share_of(accelerator), workers)
        count, *sums = totals(model, batches, accelerator, check_stop)
        names = (*_LOSSES, "retrieval") if recipe.model.video else _LOSSES[:2]
        return {name: float(value / count) for name, value in zip(names, sums, strict=True)}

    def describe(self) -> Mapping[str, Any]:
        """How many clips there are to train on and to evaluate on, and what was left out."""
        split = self._split
        return {"train": len(split.train), "held_out": len(split.held_out), "left_out": list(split.left_out)}

    def results(self) -> Mapping[str, Any]:
        """What training took besides time and memory, and how large the learner is."""
        return {**super().results(), "flops": training_flops(self._recipe, self.plan)}

    def save(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """Write the learner, which `MavilForPreTraining.from_pretrained` reads."""
        if state is not None:
            state = {name.removeprefix("network."): value for name, value in state.items()}
        self.model.network.save_pretrained(folder, state_dict=state)
