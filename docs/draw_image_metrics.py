# SPDX-License-Identifier: Apache-2.0
"""Draw docs/images/image_metrics.png: the views over which embeddings are compared.

Run from the repository's root: `python docs/draw_image_metrics.py`.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import skimage.data
import torch
import torch.nn.functional as F

from vision_extras.metrics.embeddings import VIEWS, views_of


def main() -> None:
    picture = torch.from_numpy(skimage.data.camera())[None, None].float() / 255
    picture = F.interpolate(picture, (128, 128), mode="bilinear", antialias=True)
    figure, axes = plt.subplots(1, len(VIEWS), figsize=(7.5, 1.8), layout="constrained")
    for axis, view, (zoom, degrees) in zip(axes, views_of(picture), VIEWS, strict=True):
        axis.imshow(view[0, 0], cmap="gray", vmin=0, vmax=1)
        turned = f"turned by {degrees:+g}°" if degrees else f"zoomed by {zoom:g}"
        axis.set_title("the image" if (zoom, degrees) == (1.0, 0.0) else turned, fontsize=9)
        axis.axis("off")
    path = Path("docs/images/image_metrics.png")
    figure.savefig(path, dpi=100, pil_kwargs={"optimize": True})
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
