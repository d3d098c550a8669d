# SPDX-License-Identifier: Apache-2.0
"""Clips that are made of what comes inside Python packages: said words, and digits that move meanwhile."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hylora.randomness import generator
from vision_extras.clips.clip import ClipSplit, UnreadableClip
from vision_extras.clips.recipe import ClipsRecipe
from vision_extras.clips.speech import HELD_OUT_VOICES, PITCHES, SPEEDS, VOICES, spoken
from vision_extras.images import Images
from vision_extras.images.embedded import read_mnist

__all__ = ["DIGITS", "WORDS", "SpokenClip", "SpokenClips", "read_speech", "read_spoken_digits"]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# The ten commands among the words of Speech Commands (Warden, 2018).
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")

# Deviation of the noise in the background, at most.
_NOISE = 0.01

# A digit's height and width, as a share of the frame's; and how far it moves in a second, at least and at most.
_SIZE = 0.6
_SPEED = (0.2, 0.8)

# A digit's colours are no darker than this, and the background's no lighter, so that it stands out.
_BRIGHT, _DARK = 160, 96


@dataclass(frozen=True)
class SpokenClip:
    """A word said somewhere in a clip with a little noise, and a digit that bounces to and fro.

    All that is drawn, `key` decides.

    Args:
        name: for people.
        labels: the number of the word.
        seconds: of sound, and of motion.
        key: of this clip's generators.
        rate: samples per second.
        word: [N] in float32, the word said; a longer one is cut off.
        digit: to be seen, in grey; None where there are no frames.
        side: of a frame, in pixels.
    """

    name: str
    labels: tuple[int, ...]
    seconds: float
    key: tuple[int | str, ...]
    rate: int
    word: Tensor
    digit: Image.Image | None
    side: int

    def sound(self, rate: int) -> Tensor:
        if rate != self.rate:
            raise UnreadableClip(f"{self.name} is made with rate={self.rate}, and not {rate}")
        draw = generator("sound", *self.key)
        count = round(self.seconds * rate)
        word = self.word[:count]
        first = int(torch.randint(count - len(word) + 1, (), generator=draw))
        sound = torch.randn(count, generator=draw) * (_NOISE * float(torch.rand((), generator=draw)))
        sound[first : first + len(word)] += word
        return sound.clamp(-1, 1)

    def frames(self, start: float, seconds: float, count: int) -> Tensor:
        if self.digit is None:
            raise UnreadableClip(f"{self.name} has sound alone, and no frames")
        draw = generator("frames", *self.key)

        def drawn(*size: int) -> Tensor:
            return torch.rand(*size, generator=draw)

        size = max(1, round(_SIZE * self.side))
        ink = np.asarray(self.digit.resize((size, size), Image.Resampling.BILINEAR))[..., None] / 255
        light = (_BRIGHT + (255 - _BRIGHT) * drawn(3)).numpy()
        dark = (_DARK * drawn(3)).numpy()
        place, angle, speed = drawn(2), 2 * math.pi * drawn(1), _SPEED[0] + (_SPEED[1] - _SPEED[0]) * drawn(1)
        motion = speed * torch.cat([angle.sin(), angle.cos()])
        frames = np.empty((count, self.side, self.side, 3), np.uint8)
        frames[:] = dark
        for number, frame in enumerate(frames):
            # Going on for ever along a line, folded at both edges.
            line = place + (start + number * seconds / count) * motion
            top, left = ((1 - (line % 2 - 1).abs()) * (self.side - size)).round().int().tolist()
            frame[top : top + size, left : left + size] = dark + ink * (light - dark)
        return torch.from_numpy(frames)


@dataclass(frozen=True)
class SpokenClips:
    """Clips that are made when they are asked for; each is a pure function of the arguments and its number.

    Args:
        set: its name: another gives other clips.
        words: that are said, as many clips of each.
        voices: that say them.
        count: how many clips there are.
        recipe: of rate, seconds and side.
        digits: to be seen, of which a clip's has its word's number for a label; None where there are no frames.
    """

    set: str
    words: tuple[str, ...]
    voices: tuple[str, ...]
    count: int
    recipe: ClipsRecipe
    digits: Images | None = None

    @property
    def labels(self) -> list[tuple[int, ...]]:
        return [(number % len(self.words),) for number in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> SpokenClip:
        key = (self.recipe.name, self.set, index)
        draw = generator("clip", *key)
        label = index % len(self.words)

        def one_of(choices: tuple) -> object:
            return choices[int(torch.randint(len(choices), (), generator=draw))]

        said = (self.words[label], one_of(self.voices), one_of(SPEEDS), one_of(PITCHES))
        digit, seconds = None, self.recipe.seconds
        if self.digits is not None:
            digit = self.digits[one_of((self.digits.labels == label).nonzero()[:, 0].tolist())][0]
        return SpokenClip(
            name=f"clip {index} of {self.set} {self.recipe.name}",
            labels=(label,),
            seconds=seconds,
            key=key,
            rate=self.recipe.rate,
            word=spoken(self.words, self.recipe.rate)[said],
            digit=digit,
            side=self.recipe.side,
        )

    def fingerprint(self) -> str:
        """A hash of the digits and of how clips are made of them."""
        recipe = self.recipe
        made = (self.set, self.words, self.voices, SPEEDS, PITCHES, self.count, recipe.rate, recipe.seconds)
        digest = hashlib.sha256(repr(made).encode())
        if self.digits is not None:
            digest.update(f"{recipe.side} {self.digits.fingerprint()}".encode())
        return digest.hexdigest()


def read_spoken_digits(recipe: ClipsRecipe) -> ClipSplit:
    """Moving digits and their names; handwritten digits and voices that are held out are in no clip to learn from."""
    digits = read_mnist()
    chosen = digits.chosen(recipe.held_out)
    return _split(recipe, DIGITS, digits.select(~chosen), digits.select(chosen))


def read_speech(recipe: ClipsRecipe) -> ClipSplit:
    """Words alone; voices that are held out are in no clip to learn from."""
    return _split(recipe, WORDS, None, None)


def _split(recipe: ClipsRecipe, words: tuple[str, ...], digits: Images | None, others: Images | None) -> ClipSplit:
    spoken(words, recipe.rate)  # now, before processes that make batches share it
    left = round(recipe.held_out * recipe.count)
    train = SpokenClips("train", words, VOICES, recipe.count - left, recipe, digits)
    return ClipSplit(train, SpokenClips("held out", words, HELD_OUT_VOICES, left, recipe, others), words)
