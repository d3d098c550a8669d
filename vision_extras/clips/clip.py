# SPDX-License-Identifier: Apache-2.0
"""What a clip is, wherever it comes from: sound, and mostly frames, with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["Clip", "ClipRows", "ClipSplit", "UnreadableClip"]


class UnreadableClip(ValueError):
    """A clip that does not give what is asked for; the message begins with its name."""


class Clip(Protocol):
    """Sound, and frames if there are any, that are read when they are asked for."""

    name: str
    """For people: the file, where there is one."""

    labels: tuple[int, ...]
    """Numbers of its classes; none where it has no label."""

    seconds: float
    """How long it is.

    Raises:
        UnreadableClip: if that cannot be found out.
    """

    def sound(self, rate: int) -> Tensor:
        """All of its sound: [N] in float32, of one channel, within [-1, 1].

        Args:
            rate: samples per second.

        Raises:
            UnreadableClip: if there is none, it has another rate and must not be resampled, or cannot be decoded.
        """

    def frames(self, start: float, seconds: float, count: int) -> Tensor:
        """What is seen at moments that are evenly apart: [count, H, W, 3] in uint8, red, green and blue.

        Args:
            start: the first moment, in seconds from the beginning.
            seconds: of the window, in which the moments are `seconds / count` apart.
            count: how many.

        Raises:
            UnreadableClip: if there are no frames, fewer than `count` in the window, or they cannot be decoded.
        """


class ClipRows(Protocol):
    """Clips, map-style."""

    labels: Sequence[tuple[int, ...]]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip: ...

    def fingerprint(self) -> str:
        """A hash of all that is there, in its order."""


@dataclass(frozen=True)
class ClipSplit:
    """Clips to train on, and clips held out.

    Args:
        train: to learn from.
        held_out: to evaluate on.
        classes: the name of each label; none where clips have no labels.
        multilabel: whether a clip may have several labels.
        left_out: in words, what is not there though it was listed.
    """

    train: ClipRows
    held_out: ClipRows
    classes: tuple[str, ...]
    multilabel: bool = False
    left_out: tuple[str, ...] = ()
