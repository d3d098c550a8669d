# SPDX-License-Identifier: Apache-2.0
"""What pre-training takes, in floating-point operations, by module (section 5.3.2, table 5.5)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from vision_extras.clips.recipe import ClipsRecipe
from vision_extras.curricula import Plan
from vision_extras.mavil.config import MavilConfig
from vision_extras.mavil.masking import MaskRecipe
from vision_extras.mavil.model import MavilForPreTraining
from vision_extras.mavil.patches import audio_grid, video_grid, visible_count
from vision_extras.mavil.recipe import LearnerRecipe, MavilRecipe

__all__ = ["MODULES", "clip_flops", "epoch_flops", "epoch_mean", "training_flops"]

# The names of table 5.5's columns in the model.
MODULES = ("audio", "audio_decoder", "video", "video_decoder", "fusion")


@lru_cache(maxsize=1024)
def clip_flops(model: LearnerRecipe, clips: ClipsRecipe, ratio: float) -> dict[str, int]:
    """Operations of one clip's pass forward by module, with their sum as `total`. Nothing is computed.

    A multiplication and an addition are two operations; only matrix products and attention are counted. A pass
    backward takes about twice as many.

    Args:
        model: of the learner.
        clips: whose spectrograms and frames it gets.
        ratio: the share of patches that is masked.
    """
    config = model.config(clips.bands)
    with torch.device("meta"), torch.no_grad():
        network, batch = MavilForPreTraining(config).eval(), _empty_batch(config, clips, ratio)
        with FlopCounterMode(display=False) as counter:
            network(**batch)
    counts = counter.get_flop_counts()
    found = {name: sum(counts.get(f"MavilForPreTraining.{name}", {}).values()) for name in MODULES}
    return {**found, "total": counter.get_total_flops()}


def epoch_mean(model: LearnerRecipe, clips: ClipsRecipe, mask: MaskRecipe, epochs: int) -> dict[str, float]:
    """Operations of one clip's pass forward by module, on the average over the epochs of a run."""
    found = [clip_flops(model, clips, mask.ratio(epoch, epochs)) for epoch in range(epochs)]
    return {name: sum(each[name] for each in found) / epochs for name in found[0]}


def training_flops(recipe: MavilRecipe, plan: Plan) -> int:
    """Operations of a run."""
    return sum(epoch_flops(recipe, plan, epoch) for epoch in range(recipe.training.epochs))


def epoch_flops(recipe: MavilRecipe, plan: Plan, epoch: int) -> int:
    """Operations of an epoch: each pass backward is counted as two forward."""
    return sum(
        3 * count * clip_flops(recipe.model, recipe.clips, ratio)["total"]
        for ratio, count in plan.rows_by_shape(epoch).items()
    )


def _empty_batch(config: MavilConfig, clips: ClipsRecipe, ratio: float) -> dict[str, torch.Tensor]:
    """A batch of one clip without values, on the device at hand."""

    def numbers(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=torch.long)

    patches = {"audio": math.prod(audio_grid(clips.steps, clips.bands, config.audio_patch))}
    batch = {"input_values": torch.empty(1, clips.steps, clips.bands), "steps": numbers(1)}
    if config.video:
        shape = clips.frames, clips.side, clips.side
        patches["video"] = math.prod(video_grid(*shape, config.tubelet, config.video_patch))
        batch["frames"] = torch.empty(1, config.channels, *shape)
    for name, count in patches.items():
        visible = visible_count(count, ratio)
        batch[f"{name}_visible"] = numbers(1, 2 if config.video else 1, visible)
        batch[f"{name}_masked"] = numbers(1, count - visible)
    return batch
