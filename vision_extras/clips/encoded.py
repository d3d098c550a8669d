# SPDX-License-Identifier: Apache-2.0
"""Clips in files, or in the rows of a dataset, that are decoded when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import numpy as np
from torch import Tensor

from vision_extras.clips.clip import UnreadableClip
from vision_extras.clips.decoding import read_frames, read_seconds, read_sound
from vision_extras.images.data import Encoded, chosen

__all__ = ["EncodedClip", "EncodedClips"]


@dataclass(frozen=True)
class EncodedClip:
    """A clip that is decoded when it is asked for.

    Args:
        sounds: where encoded sound is.
        pictures: where encoded frames are; None where there are none.
        number: of the clip in both.
        labels: numbers of its classes.
        resample: whether sound of another rate is converted.
        part: from where on, in seconds, and for how long; None for all of it.
    """

    sounds: Encoded
    pictures: Encoded | None
    number: int
    labels: tuple[int, ...]
    resample: bool
    part: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        return self.sounds.name(self.number)

    @cached_property
    def seconds(self) -> float:
        if self.part is not None:
            return self.part[1]
        return read_seconds(self._heard if self.pictures is None else self._seen, self.name)

    # A dataset reads a row each time that it is opened.
    @cached_property
    def _heard(self) -> str | BinaryIO:
        return self.sounds.open(self.number)

    @cached_property
    def _seen(self) -> str | BinaryIO:
        return self._heard if self.pictures is self.sounds else self.pictures.open(self.number)

    def sound(self, rate: int) -> Tensor:
        sound = read_sound(self._heard, self.name, rate, self.resample)
        if self.part is None:
            return sound
        start, seconds = self.part
        return sound[round(start * rate) : round((start + seconds) * rate)]

    def frames(self, start: float, seconds: float, count: int) -> Tensor:
        if self.pictures is None:
            raise UnreadableClip(f"{self.name} has sound alone, and no frames")
        start += self.part[0] if self.part is not None else 0
        return read_frames(self._seen, self.name, start, seconds, count)


@dataclass(frozen=True)
class EncodedClips:
    """Clips that are decoded when they are asked for.

    Args:
        sounds: where encoded sound is.
        pictures: where encoded frames are; None where there are none.
        numbers: of these clips there, [N] in int64.
        labels: of each, numbers of its classes.
        resample: whether sound of another rate is converted.
        digest: says which clips there are, in which state, without decoding them.
        parts: of each, as in `EncodedClip`; None for all of them.
    """

    sounds: Encoded
    pictures: Encoded | None
    numbers: np.ndarray
    labels: Sequence[tuple[int, ...]]
    resample: bool
    digest: str
    parts: Sequence[tuple[float, float]] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> EncodedClip:
        part = None if self.parts is None else self.parts[index]
        number = int(self.numbers[index])
        return EncodedClip(self.sounds, self.pictures, number, self.labels[index], self.resample, part)

    def fingerprint(self) -> str:
        """A hash of what the clips are known by, and of which of them are here."""
        digest = hashlib.sha256(self.digest.encode())
        digest.update(repr((self.numbers.tolist(), list(self.labels), self.parts)).encode())
        return digest.hexdigest()

    def select(self, side: Sequence[bool]) -> EncodedClips:
        """Those where `side`, of each clip, is true."""
        kept = np.flatnonzero(side)
        parts = None if self.parts is None else [self.parts[index] for index in kept]
        labels = [self.labels[index] for index in kept]
        return EncodedClips(self.sounds, self.pictures, self.numbers[kept], labels, self.resample, self.digest, parts)

    def cut(self, share: float) -> tuple[EncodedClips, EncodedClips]:
        """Those to learn from, and about a share held out, as `chosen` of each clip's key."""
        side = chosen((self.sounds.key(number) for number in self.numbers.tolist()), share).numpy()
        return self.select(~side), self.select(side)
