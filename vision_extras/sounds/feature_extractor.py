# SPDX-License-Identifier: Apache-2.0
"""Spectrograms for a finished classifier, as it was shown them in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, SequenceFeatureExtractor

from vision_extras.clips.collate import Sounds
from vision_extras.clips.recipe import ClipsRecipe

__all__ = ["SoundFeatureExtractor"]


@dataclass(frozen=True)
class _Heard:
    """A clip of which there is nothing but sound."""

    samples: Tensor
    labels: tuple[int, ...] = ()

    def sound(self, rate: int) -> Tensor:
        return self.samples


class SoundFeatureExtractor(SequenceFeatureExtractor):
    """Makes normalised log-mel spectrograms of sounds; transformers' pipelines find it beside a classifier.

    `transformers.ASTFeatureExtractor` computes the same, but fills up with a power of 1, where silence has next to
    none, and hears the beginning of long sounds in place of the middle.

    Args:
        sampling_rate: samples per second.
        seconds: of sound in a spectrogram. Of a longer one the middle is heard, and a shorter one is filled up with
            silence.
        num_mel_bins: bands.
        mean: of the logarithms of power in the bands; subtracted.
        std: of the same; what remains is divided by twice as much.
        feature_size, padding_value, **options: as every feature extractor of transformers has them.
    """

    model_input_names = ["input_values"]

    def __init__(
        self,
        sampling_rate: int = ClipsRecipe.rate,
        seconds: float = ClipsRecipe.seconds,
        num_mel_bins: int = ClipsRecipe.bands,
        mean: float = ClipsRecipe.mean,
        std: float = ClipsRecipe.std,
        feature_size: int = 1,
        padding_value: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(feature_size, sampling_rate, padding_value, **options)
        self.seconds = seconds
        self.num_mel_bins = num_mel_bins
        self.mean = mean
        self.std = std

    @classmethod
    def of(cls, recipe: ClipsRecipe) -> SoundFeatureExtractor:
        """What makes the spectrograms of a recipe's clips."""
        return cls(recipe.rate, recipe.seconds, recipe.bands, recipe.mean, recipe.std)

    def __call__(
        self,
        raw_speech: np.ndarray | Sequence[float] | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Spectrograms of one sound or of several.

        Args:
            raw_speech: samples of one channel within [-1, 1], [N]; or several of those.
            sampling_rate: of them; None takes it to be right.
            return_tensors: `pt` or `np`; None for a list.
            **options: nothing else is read.

        Returns:
            `input_values`, [B, steps, bands] in float32.

        Raises:
            ValueError: if sounds have another rate, or one is empty.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(
                f"sampling_rate={sampling_rate} must be {self.sampling_rate}, which the classifier has learned from; "
                "resample the sound"
            )
        several = len(raw_speech) > 0 and np.ndim(raw_speech[0]) > 0
        sounds = raw_speech if several else [raw_speech]
        clips = [_Heard(torch.from_numpy(np.asarray(sound, np.float32))) for sound in sounds]
        empty = next((number for number, clip in enumerate(clips) if not len(clip.samples)), None)
        if empty is not None:
            raise ValueError(f"raw_speech has no samples in sound {empty}, which would pass for silence; leave it out")
        # Whatever clips these are, they are heard as those of a recipe.
        recipe = ClipsRecipe(
            name="speech",
            rate=self.sampling_rate,
            seconds=self.seconds,
            bands=self.num_mel_bins,
            mean=self.mean,
            std=self.std,
        )
        made = Sounds(recipe)(clips, [None] * len(clips))
        return BatchFeature({"input_values": [*made["input_values"].numpy()]}, tensor_type=return_tensors)
