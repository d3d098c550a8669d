# SPDX-License-Identifier: Apache-2.0
"""The recipe of a classifier of sounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hylora.training.fields import check_choice, check_range, expand_home
from hylora.training.recipe import EvaluationRecipe, Recipe, RecipeError
from vision_extras.clips.recipe import ClipEpochRecipe, ClipsRecipe, check_clip_run
from vision_extras.recipe import EpochScheduleRecipe, ImageOptimizerRecipe
from vision_extras.sounds.augment import SoundAugmentRecipe

__all__ = [
    "SoundEvaluationRecipe",
    "SoundModelRecipe",
    "SoundOptimizerRecipe",
    "SoundsRecipe",
]

# Of an encoder from scratch.
_SIZES = {"hidden_size": 96, "num_attention_heads": 4, "audio_layers": 4}


@dataclass(frozen=True, kw_only=True)
class SoundModelRecipe:
    """The classifier: the audio encoder of `vision_extras.mavil`, and a linear layer on the mean of what it gives.

    Args:
        path: folder of a pre-trained audio-video learner; or of a classifier, whose last layer starts anew if it tells
            another number of classes. Null starts from scratch.
        train: `all` of it, or the `head` alone on what an encoder as it is gives (a linear probe).
        drop_path: how probably the last layer is skipped in training ("stochastic dropout" of table 5.6); those before
            it are less so.
        hidden_size: width of an encoder from scratch, whose feed-forward layers are four times as wide; null is 96.
        num_attention_heads: of an encoder from scratch; null is 4.
        audio_layers: of an encoder from scratch; null is 4.
    """

    path: str | None = None
    train: Literal["all", "head"] = "all"
    drop_path: float = 0.0
    hidden_size: int | None = None
    num_attention_heads: int | None = None
    audio_layers: int | None = None

    def __post_init__(self) -> None:
        check_choice(self, "train")
        check_range(self, "drop_path", least=0, below=1)
        check_range(self, *_SIZES, least=1)
        expand_home(self, "path")
        if self.path is None and self.train == "head":
            raise ValueError("train='head' needs an encoder that has learned; set path to the folder of one")
        for name in _SIZES:
            value = getattr(self, name)
            if self.path is not None and value is not None:
                raise ValueError(f"{name}={value!r} must be left out; the encoder of path={self.path!r} has its own")

    @property
    def sizes(self) -> dict[str, int]:
        """Of an encoder from scratch, as `MavilConfig` has them."""
        sizes = {name: getattr(self, name) or size for name, size in _SIZES.items()}
        return {**sizes, "intermediate_size": 4 * sizes["hidden_size"]}


@dataclass(frozen=True, kw_only=True)
class SoundOptimizerRecipe(ImageOptimizerRecipe):
    """How weights are updated; the defaults are those of table 5.6 for ESC-50.

    Args:
        name: the optimizer.
        lr: learning rate of the classifier and of what comes right before it.
        layer_decay: factor on it from one layer of the encoder to the one before; 1 for one rate.
        weight_decay: decoupled for AdamW; norms and biases are spared.
        momentum: of sgd.
        max_grad_norm: gradients are clipped to this norm; null for no clipping.
        schedule: the rate over training.
    """

    name: Literal["adamw", "sgd", "adamw_8bit"] = "adamw"
    lr: float = 2.5e-4
    layer_decay: float = 0.75
    weight_decay: float = 1e-4
    momentum: float = 0.0
    schedule: EpochScheduleRecipe = field(default_factory=EpochScheduleRecipe)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "layer_decay", above=0, most=1)


@dataclass(frozen=True, kw_only=True)
class SoundEvaluationRecipe(EvaluationRecipe):
    """Evaluation on the held-out clips during training.

    Args:
        every: epochs between evaluations; 0 for none in between.
        at_end: evaluate when training ends.
        batch_size: clips per process and forward pass.
    """

    batch_size: int = 64


@dataclass(frozen=True, kw_only=True)
class SoundsRecipe(Recipe):
    """A run of a classifier of sounds (chapter 5, section 5.3 and table 5.6).

    Args:
        task: `sounds`.
        clips: what is learned from.
        augment: how spectrograms are changed at random.
        model: the classifier.
        loss: cross entropy (`ce`), or the mean over classes of the binary one (`bce`), which clips of several labels
            need.

    Raises:
        RecipeError: if sections contradict each other.
    """

    task: Literal["sounds"]
    clips: ClipsRecipe
    augment: SoundAugmentRecipe = field(default_factory=SoundAugmentRecipe)
    model: SoundModelRecipe = field(default_factory=SoundModelRecipe)
    loss: Literal["ce", "bce"] = "ce"
    optimizer: SoundOptimizerRecipe = field(default_factory=SoundOptimizerRecipe)
    training: ClipEpochRecipe = field(default_factory=ClipEpochRecipe)
    evaluation: SoundEvaluationRecipe = field(default_factory=SoundEvaluationRecipe)

    def __post_init__(self) -> None:
        for name, most, of in (
            ("time_mask", self.clips.steps, "steps"),
            ("frequency_mask", self.clips.bands, "bands"),
        ):
            value, most = getattr(self.augment, name), getattr(self.clips, of)
            if value > most:
                raise RecipeError(f"augment.{name}={value} must be at most {most}, the {of} of a spectrogram")
        check_clip_run(self)

    def inputs(self) -> dict[str, str]:
        return {} if self.model.path is None else {"model.path": self.model.path}
