# SPDX-License-Identifier: Apache-2.0
"""Draw docs/images/augmentations.png: what each augmentation makes of a photograph that scikit-image brings.

Run from the repository's root: `python docs/draw_augmentations.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFont

from hylora.randomness import generator
from vision_extras.images import Augmented, AugmentRecipe
from vision_extras.images.randaugment import OPERATIONS

SIDE, LABEL, COLUMNS = 92, 16, 5
CAT, ASTRONAUT = skimage.data.chelsea()[10:290, 90:370], skimage.data.astronaut()[:280, 90:370]


def augmented(seed: int, **recipe) -> Image.Image:
    """The cat as a batch of the astronaut and the cat has it."""
    collate = Augmented(mean=(0.0,), std=(1.0,), recipe=AugmentRecipe(**recipe), classes=2)
    rows = [(Image.fromarray(ASTRONAUT), 0), (Image.fromarray(CAT), 1)]
    batch = collate(rows, [generator("picture", seed, number) for number in range(2)], (SIDE, SIDE))
    pixels = batch["images"][1].permute(1, 2, 0) * 255
    return Image.fromarray(pixels.round().clamp(0, 255).to(torch.uint8).numpy())


def tiles() -> dict[str, Image.Image]:
    """By what they show."""
    plain = augmented(0)
    operations = {name: operation(plain, 0.6) for name, operation in OPERATIONS.items() if name != "identity"}
    return {
        "none": plain,
        "shift: 60": augmented(1, shift=60),
        "scale: [0.08, 1]": augmented(3, scale=(0.08, 1.0)),
        "flip": augmented(1, flip=1.0),
        **operations,
        "erase": augmented(4, erase=1.0),
        "mixup": augmented(2, mixup=1.0),
        "cutmix": augmented(1, cutmix=1.0),
    }


def main() -> None:
    """Draw the tiles with their names below."""
    shown = tiles()
    rows = -(-len(shown) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + 6), rows * (SIDE + LABEL + 4)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, (name, tile) in enumerate(shown.items()):
        left, top = number % COLUMNS * (SIDE + 6) + 3, number // COLUMNS * (SIDE + LABEL + 4) + 2
        sheet.paste(tile, (left, top))
        draw.text((left + SIDE / 2, top + SIDE + 2), name, "#333333", font, anchor="ma")
    few = sheet.quantize(96, dither=Image.Dither.NONE)
    few.save(Path(__file__).parent / "images/augmentations.png", optimize=True)
    print(np.asarray(few).shape)


if __name__ == "__main__":
    main()
