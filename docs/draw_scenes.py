# SPDX-License-Identifier: Apache-2.0
"""Draw scenes with the boxes that are there: `python docs/draw_scenes.py docs/images/scenes.png`."""

from __future__ import annotations

import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from vision_extras.detection.scenes import read_scenes


def draw(path: str, count: int = 6) -> None:
    """Draw the first scenes of those that are learned from."""
    split = read_scenes(count=100, side=64, most=3, held_out=0.1)
    figure, axes = plt.subplots(1, count, figsize=(1.6 * count, 1.7), constrained_layout=True)
    for number, place in enumerate(axes):
        image, boxes, labels = split.train[number]
        place.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(0, 1, 1, 0))
        for (left, top, right, bottom), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            place.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color="tab:orange"))
            place.text(left, top, split.classes[label], color="tab:orange", verticalalignment="bottom")
        place.set_axis_off()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    draw(sys.argv[1])
