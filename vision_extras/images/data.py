# SPDX-License-Identifier: Apache-2.0
"""Labelled images, in memory or decoded when they are asked for, and which of them are held out."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from hylora.randomness import derive_key

__all__ = [
    "IGNORED",
    "MODES",
    "Encoded",
    "Images",
    "LazyImages",
    "Row",
    "Rows",
    "UnreadableImage",
    "chosen",
    "decoded",
]

# The label of an image that counts for nothing, as torch's cross entropy has it.
IGNORED = -100

# PIL's name of what has so many channels.
MODES = {1: "L", 3: "RGB"}

Row = tuple[Image.Image, int]


class UnreadableImage(ValueError):
    """An image that cannot be decoded; the message has its name."""


class Rows(Protocol):
    """Images with their labels, map-style."""

    labels: Tensor

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row:
        """An image and its label."""

    def fingerprint(self) -> str:
        """A hash of all that is there, in its order."""


@dataclass(frozen=True)
class Images:
    """Images of one size in memory.

    Args:
        pixels: [N, C, H, W], uint8, of one channel or three.
        labels: [N], int64.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Row:
        pixels = self.pixels[index]
        pixels = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
        return Image.fromarray(pixels.numpy()), int(self.labels[index])

    def fingerprint(self) -> str:
        """A hash of every pixel and label, in their order."""
        digest = hashlib.sha256(self.pixels.numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()

    def select(self, side: Tensor) -> Images:
        """Those where `side`, [N] of bool, is true."""
        return Images(self.pixels[side], self.labels[side])

    def chosen(self, share: float) -> Tensor:
        """As `chosen` of each image's pixels, so that one that is there twice is never on both sides."""
        return chosen((image.numpy().tobytes().hex() for image in self.pixels), share)

    def converted(self, channels: int) -> Images:
        """The same in grey (1) or in colour (3)."""
        if channels == self.pixels.shape[1]:
            return self
        images = (np.asarray(self[index][0].convert(MODES[channels])) for index in range(len(self)))
        pixels = torch.from_numpy(np.stack(list(images))).reshape(len(self), *self.pixels.shape[2:], channels)
        return Images(pixels.permute(0, 3, 1, 2).contiguous(), self.labels)


class Encoded(Protocol):
    """Where encoded images are."""

    def open(self, number: int) -> str | BinaryIO:
        """What PIL reads."""

    def name(self, number: int) -> str:
        """For people."""

    def key(self, number: int) -> str:
        """The same wherever all of them are."""


@dataclass(frozen=True)
class LazyImages:
    """Images that are decoded when they are asked for, in the process that asks.

    Args:
        encoded: where they are.
        numbers: of these images there, [N] in int64.
        labels: [N], int64.
        channels: 1 or 3.
        digest: says which images there are, in which state, without decoding them.
    """

    encoded: Encoded
    numbers: Tensor
    labels: Tensor
    channels: int
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Row:
        """An image and its label.

        Raises:
            UnreadableImage: if it cannot be decoded.
        """
        image = decoded(self.encoded, int(self.numbers[index]), MODES[self.channels])
        # Cameras write photographs as their sensor lies, and beside them how to turn them. Broken notes turn nothing.
        with contextlib.suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
        return image, int(self.labels[index])

    def fingerprint(self) -> str:
        """A hash of what the images are known by, and of which of them are here."""
        digest = hashlib.sha256(self.digest.encode())
        for part in (self.numbers, self.labels):
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()

    def select(self, side: Tensor) -> LazyImages:
        """Those where `side`, [N] of bool, is true."""
        return LazyImages(self.encoded, self.numbers[side], self.labels[side], self.channels, self.digest)

    def chosen(self, share: float) -> Tensor:
        """As `chosen` of each image's key."""
        return chosen((self.encoded.key(number) for number in self.numbers.tolist()), share)

    def readable(self) -> tuple[Tensor, list[str]]:
        """Decode each image once, by several threads.

        Returns:
            Which can be, [N] of bool, and for each of the others what is wrong.
        """

        def problem(index: int) -> str | None:
            try:
                self[index]
            except UnreadableImage as error:
                return str(error)
            return None

        with ThreadPoolExecutor() as pool:
            problems = list(pool.map(problem, range(len(self))))
        readable = torch.tensor([found is None for found in problems], dtype=torch.bool)
        return readable, [found for found in problems if found]


def decoded(encoded: Encoded, number: int, mode: str) -> Image.Image:
    """One of the images there, as one of `MODES`. Of 16 bits the upper 8 are kept; transparency is not looked at.

    Raises:
        UnreadableImage: if it cannot be decoded, or has pixels of 32 bits, whose range nobody knows.
    """
    try:
        with Image.open(encoded.open(number)) as image:
            image.load()
        # PIL would turn every value above 255 into 255.
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise ValueError(f"pixels of mode {image.mode!r} have no known range; write them with 8 or 16 bits")
        return image if image.mode == mode else image.convert(mode)
    except Exception as error:  # decoders raise whatever they trip over
        raise UnreadableImage(f"{encoded.name(number)} cannot be read as an image: {error}") from error


def chosen(names: Iterable[str], share: float) -> Tensor:
    """Which are held out, [N] of bool: those whose hash falls into a share of all hashes.

    One is on the same side in every run, whatever the others are.

    Args:
        names: of each.
        share: about how much is held out, in [0, 1).
    """
    return torch.tensor([derive_key("held out", name) < share * 2**63 for name in names], dtype=torch.bool)
