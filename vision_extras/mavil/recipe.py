# SPDX-License-Identifier: Apache-2.0
"""The recipe of a masked audio-video learner's run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Literal

from hylora.training.fields import check_choice, check_range
from hylora.training.recipe import EvaluationRecipe, OptimizerRecipe, Recipe, RecipeError
from vision_extras.clips.recipe import ClipEpochRecipe, ClipsRecipe, check_clip_run
from vision_extras.mavil.config import MavilConfig
from vision_extras.mavil.masking import MaskRecipe
from vision_extras.mavil.patches import audio_grid, video_grid
from vision_extras.recipe import EpochScheduleRecipe

__all__ = ["LearnerRecipe", "MavilEvaluationRecipe", "MavilOptimizerRecipe", "MavilRecipe"]


@dataclass(frozen=True, kw_only=True)
class LearnerRecipe:
    """The learner; the defaults are the thesis's DiffMAViL (section 5.5.1). `MavilConfig` says more of each.

    Args:
        video: whether there is a video branch; without it, this is AudioMAE.
        diffusion: whether decoders get patches with noise in place of masked ones, or a learned token.
        video_attention: in the video decoder: `self`, or `cross` from masked patches to visible ones.
        audio_patch: height and width of a spectrogram's patch.
        video_patch: height and width of a video's patch, in pixels.
        tubelet: frames in a video's patch.
        hidden_size: width of the encoders, whose feed-forward layers are four times as wide.
        num_attention_heads: of the encoders.
        audio_layers: of the audio encoder.
        video_layers: of the video encoder.
        fusion_layers: of the fusion encoder.
        decoder_size: width of the decoders.
        decoder_layers: of each decoder.
        decoder_heads: of each decoder.
        noise_exponent: phi, the power of each step's beta.
        inter_weight: of the contrastive loss between modalities.
        intra_weight: of the contrastive losses within each modality.
    """

    video: bool = True
    diffusion: bool = True
    video_attention: Literal["self", "cross"] = "cross"
    audio_patch: int = 16
    video_patch: int = 16
    tubelet: int = 2
    hidden_size: int = 768
    num_attention_heads: int = 12
    audio_layers: int = 12
    video_layers: int = 12
    fusion_layers: int = 2
    decoder_size: int = 512
    decoder_layers: int = 8
    decoder_heads: int = 16
    noise_exponent: float = 0.8
    inter_weight: float = 0.1
    intra_weight: float = 0.01

    def __post_init__(self) -> None:
        check_choice(self, "video_attention")
        check_range(self, "audio_patch", "video_patch", "tubelet", least=1)
        check_range(self, "hidden_size", "num_attention_heads", "decoder_size", "decoder_heads", least=1)
        check_range(self, "audio_layers", "video_layers", "fusion_layers", "decoder_layers", least=1)
        check_range(self, "noise_exponent", above=0)
        check_range(self, "inter_weight", "intra_weight", least=0)

    def config(self, bands: int) -> MavilConfig:
        """The learner's shape, for spectrograms of so many bands.

        Raises:
            ValueError: naming the field that cannot work.
        """
        return MavilConfig(**asdict(self), intermediate_size=4 * self.hidden_size, bands=bands)


@dataclass(frozen=True, kw_only=True)
class MavilOptimizerRecipe(OptimizerRecipe):
    """How weights are updated; the defaults are the thesis's (table 5.6).

    Args:
        name: the optimizer.
        lr: learning rate.
        weight_decay: decoupled for AdamW; norms and biases are spared.
        max_grad_norm: gradients are clipped to this norm; null for no clipping.
        schedule: the rate over training.
    """

    lr: float = 4e-4
    weight_decay: float = 1e-5
    max_grad_norm: float | None = None
    # 1e-6 of 4e-4.
    schedule: EpochScheduleRecipe = field(default_factory=lambda: EpochScheduleRecipe(final=2.5e-3))


@dataclass(frozen=True, kw_only=True)
class MavilEvaluationRecipe(EvaluationRecipe):
    """Evaluation on the held-out clips.

    Args:
        every: epochs between evaluations; 0 for none in between.
        at_end: evaluate when training ends.
        batch_size: clips per process and forward pass, which contrastive losses and retrieval compare.
    """

    batch_size: int = 32


@dataclass(frozen=True, kw_only=True)
class MavilRecipe(Recipe):
    """A masked audio-video learner's run.

    Args:
        task: `mavil`.
        clips: what is learned from.
        model: the learner.
        mask: how much is masked over training, and how many clips an update then has.

    Raises:
        RecipeError: if sections contradict each other.
    """

    task: Literal["mavil"]
    clips: ClipsRecipe
    model: LearnerRecipe = field(default_factory=LearnerRecipe)
    mask: MaskRecipe = field(default_factory=MaskRecipe)
    optimizer: MavilOptimizerRecipe = field(default_factory=MavilOptimizerRecipe)
    training: ClipEpochRecipe = field(default_factory=ClipEpochRecipe)
    evaluation: MavilEvaluationRecipe = field(default_factory=MavilEvaluationRecipe)

    def __post_init__(self) -> None:
        clips, model = self.clips, self.model
        try:
            window = model.config(clips.bands).window
            grids = {"sound": audio_grid(clips.steps, clips.bands, model.audio_patch)}
            if model.video:
                shape = clips.frames, clips.side, clips.side
                grids["video"] = video_grid(*shape, model.tubelet, model.video_patch)
        except ValueError as error:
            raise RecipeError(f"model: {error}") from error
        for name, grid in grids.items():
            if math.prod(grid) < 2:
                raise RecipeError(f"model: a single patch of {name} leaves nothing to mask; make patches smaller")
        times, bands = grids["sound"]
        if times % window or bands % window:
            raise RecipeError(
                f"clips.bands={clips.bands} and clips.seconds={clips.seconds} make {bands} patches by {times} of "
                f"model.audio_patch={model.audio_patch}, which windows of {window} by {window} must divide; choose "
                f"bands that are a multiple of {window * model.audio_patch}, or smaller patches"
            )
        check_clip_run(self)
