# SPDX-License-Identifier: Apache-2.0
"""What pre-training takes before it starts: masks, clips per update and operations of each epoch (section 5.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hylora.training.recipe import RecipeError
from vision_extras.clips.sources import load_clips
from vision_extras.curricula import Plan
from vision_extras.mavil.masking import MaskRecipe
from vision_extras.mavil.model import MavilForPreTraining
from vision_extras.mavil.operations import epoch_flops
from vision_extras.mavil.recipe import MavilRecipe
from vision_extras.plans import PlannedRun

__all__ = ["MaskedEpoch", "MavilPlan", "plan_run"]


@dataclass(frozen=True)
class MaskedEpoch:
    """What an epoch takes.

    Args:
        epoch: from 0.
        updates: of the weights.
        mask_ratio: share of patches that is masked.
        clips: of an update, over all processes.
        flops: operations.
    """

    epoch: int
    updates: int
    mask_ratio: float
    clips: int
    flops: int


@dataclass(frozen=True)
class MavilPlan(PlannedRun):
    """What pre-training takes.

    The reference is the learner without diffusion, whose video decoder has self-attention (MAViL; AudioMAE where there
    is no video), with masks as in the last epoch.
    """

    rows_are = "clips"

    @property
    def reference(self) -> str:
        return f"{self._plain}, masks {self.recipe.mask.last:g}"

    @property
    def name(self) -> str:
        return f"{self._plain} with diffusion" if self.recipe.model.diffusion else self._plain

    @property
    def _plain(self) -> str:
        return "MAViL" if self.recipe.model.video else "AudioMAE"

    def cells(self, epoch: MaskedEpoch) -> dict[str, str]:
        return {"masked": f"{epoch.mask_ratio:.3f}", "clips": f"{epoch.clips:,}", "updates": f"{epoch.updates:,}"}

    def curves(self) -> dict[str, tuple[str, Sequence[float]]]:
        batch = self.recipe.training.global_batch_size
        return {
            "masked": ("--", [epoch.mask_ratio for epoch in self.epochs]),
            "clips of an update": (":", [epoch.clips / batch for epoch in self.epochs]),
        }


def plan_run(recipe: MavilRecipe, clips: int | None = None) -> MavilPlan:
    """What a run takes on one process. Nothing of the network's size is allocated.

    Args:
        recipe: of the run.
        clips: to learn from; None to find out, for which none of a folder or data set is decoded.

    Raises:
        RecipeError: if the recipe cannot work.
    """
    clips = _count(recipe) if clips is None else clips
    with torch.device("meta"):
        network = MavilForPreTraining(recipe.model.config(recipe.clips.bands))
    model = dataclasses.replace(recipe.model, diffusion=False, video_attention="self")
    mask = MaskRecipe(first=recipe.mask.last, last=recipe.mask.last)
    plain = dataclasses.replace(recipe, model=model, mask=mask)
    plan, loop = _updates(recipe, clips), recipe.training
    epochs = []
    for epoch in range(loop.epochs):
        ratio = recipe.mask.ratio(epoch, loop.epochs)
        epochs.append(
            MaskedEpoch(
                epoch=epoch,
                updates=plan.first_step(epoch + 1) - plan.first_step(epoch),
                mask_ratio=ratio,
                clips=recipe.mask.batch_size(ratio, loop.global_batch_size),
                flops=epoch_flops(recipe, plan, epoch),
            )
        )
    return MavilPlan(
        recipe=recipe,
        rows=clips,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        dense=epoch_flops(plain, _updates(plain, clips), 0),
        epochs=tuple(epochs),
    )


def _updates(recipe: MavilRecipe, clips: int) -> Plan:
    loop = recipe.training
    return Plan(recipe.mask, clips, loop.epochs, loop.global_batch_size, loop.batch_size, loop.seed)


def _count(recipe: MavilRecipe) -> int:
    clips = recipe.clips
    if clips.path is not None:
        clips = dataclasses.replace(clips, unreadable="trust")
    try:
        return len(load_clips(clips, video=recipe.model.video).train)
    except ValueError as error:
        raise RecipeError(f"clips.{error}") from error
