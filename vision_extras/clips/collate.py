# SPDX-License-Identifier: Apache-2.0
"""From clips to batches of spectrograms, frames and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hylora.training.feed import Batch
from vision_extras.clips.clip import Clip
from vision_extras.clips.recipe import ClipsRecipe
from vision_extras.clips.spectrogram import SILENCE, log_mel
from vision_extras.images import IGNORED, Resized

__all__ = ["SoundAndFrames", "Sounds", "windows"]

# What networks for videos are customarily given: pixels of 0.45 on average, for each channel.
_PIXELS = Resized(mean=(0.45,) * 3, std=(0.225,) * 3)


@dataclass(frozen=True)
class Sounds:
    """Makes batches of spectrograms.

    Called with clips and a generator for each, or None, it gives `input_values`, [B, steps, bands] in float32, and
    `labels`: [B] in int64, which are -100 of clips without one; or [B, classes] in float32, 1 where a clip has the
    label.

    With a generator, sound begins at a random place and goes on from its beginning where it ends (R in table 5.6).
    Without one, the middle is heard.

    Args:
        recipe: of the clips.
        several: how many classes there are, where a clip may have several labels; otherwise None.
    """

    recipe: ClipsRecipe
    several: int | None = None

    def __call__(self, rows: Sequence[Clip], generators: Sequence[torch.Generator | None], shape: Any = None) -> Batch:
        heard = [self._spectrogram(clip, draw) for clip, draw in zip(rows, generators, strict=True)]
        return {"input_values": torch.stack(heard), "labels": self._labels(rows)}

    def _spectrogram(self, clip: Clip, draw: torch.Generator | None) -> Tensor:
        recipe = self.recipe
        sound = clip.sound(recipe.rate)
        sound = F.pad(sound, (0, max(0, recipe.samples - len(sound))))
        if draw is None:
            first = (len(sound) - recipe.samples) // 2
        else:
            first = int(torch.randint(len(sound), (), generator=draw))
        sound = sound.roll(-first)[: recipe.samples]
        # One after another, while a clip is in the processor's cache; the batch at once is slower.
        heard = log_mel(sound[None], recipe.rate, recipe.bands)[0]
        heard = F.pad(heard, (0, 0, 0, recipe.steps - len(heard)), value=SILENCE)
        return (heard - recipe.mean) / (2 * recipe.std)

    def _labels(self, rows: Sequence[Clip]) -> Tensor:
        if self.several is None:
            return torch.tensor([clip.labels[0] if clip.labels else IGNORED for clip in rows])
        labels = torch.zeros(len(rows), self.several)
        for row, clip in zip(labels, rows, strict=True):
            row[list(clip.labels)] = 1
        return labels


@dataclass(frozen=True)
class SoundAndFrames(Sounds):
    """Makes batches of spectrograms and of frames.

    Beside what `Sounds` gives there is `frames`, [B, 3, F, side, side] in float32: of each frame the largest square
    about its centre. With a generator, they are of a random window of the clip; without one, of the middle.
    """

    def __call__(self, rows: Sequence[Clip], generators: Sequence[torch.Generator | None], shape: Any = None) -> Batch:
        seen = [self._frames(clip, draw) for clip, draw in zip(rows, generators, strict=True)]
        return {**super().__call__(rows, generators), "frames": torch.stack(seen)}

    def _frames(self, clip: Clip, draw: torch.Generator | None) -> Tensor:
        recipe = self.recipe
        place = 0.5 if draw is None else float(torch.rand((), generator=draw))
        (frames,) = windows(recipe, clip, place)
        images = [(Image.fromarray(frame.numpy()), IGNORED) for frame in frames]
        batch = _PIXELS(images, [None] * len(images), (recipe.side, recipe.side))
        return batch["images"].transpose(0, 1)


def windows(recipe: ClipsRecipe, clip: Clip, *places: float) -> list[Tensor]:
    """Frames of a clip, [F, H, W, 3] in uint8, from a window at each place.

    Args:
        recipe: says how many frames there are, and in how many seconds.
        clip: that has frames.
        *places: from 0, the first window, to 1, the last.

    Raises:
        UnreadableClip: if one of them does not give its frames.
    """
    seconds = min(recipe.video_seconds, clip.seconds)
    return [clip.frames(place * (clip.seconds - seconds), seconds, recipe.frames) for place in places]
