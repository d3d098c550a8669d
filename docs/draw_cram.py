# SPDX-License-Identifier: Apache-2.0
"""Draw docs/images/cram.png: one update of CrAM+ on a loss of two weights, of which the compression leaves one.

Run from the repository's root: `python docs/draw_cram.py [PICTURE]`.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from hylora.training.moment import Moment
from vision_extras.masks import prunable
from vision_extras.sparse import CramRecipe
from vision_extras.sparse.cram import CompressionAware

RATE, RADIUS, LEVEL = 0.12, 0.5, 0.5


def loss_at(weights: Tensor) -> Tensor:
    """A tilted bowl, for weights [..., 2]."""
    x, y = weights[..., 0] - 0.6, weights[..., 1] + 0.2
    return 0.5 * x**2 + 1.2 * y**2 + 0.9 * x * y


def main(path: Path) -> None:
    """Make the update by the method itself, and draw where its passes were."""
    network = nn.Linear(2, 1, bias=False)
    network.weight.data = torch.tensor([[1.9, 1.0]])
    method = CompressionAware(
        network, partial(prunable, network), CramRecipe(update="cram", levels=(LEVEL,), radius=RADIUS), nn.ModuleDict()
    )
    points, gradients = [], []

    def accumulate() -> Tensor:
        loss = loss_at(network.weight[0])
        loss.backward()
        points.append(network.weight[0].detach().clone())
        gradients.append(network.weight.grad[0].detach().clone())
        return loss.detach()

    method.begin(Moment(0, 1, 0))
    method.gradients(accumulate)
    theta, compressed = points
    raised, step = theta + RADIUS * gradients[0], -RATE * network.weight.grad[0]
    figure, axis = plt.subplots(figsize=(6.2, 4.2), layout="constrained")
    x, y = torch.meshgrid(torch.linspace(-0.6, 3.6, 200), torch.linspace(-0.9, 3.2, 200), indexing="xy")
    axis.contour(x, y, loss_at(torch.stack([x, y], -1)), levels=[0.05, 0.2, 0.5, 1, 2, 3.5, 5.5, 8], colors="#cccccc")
    axis.axhline(0, color="#999999", linewidth=0.8)
    axis.axvline(0, color="#999999", linewidth=0.8)
    moves = [
        (theta, raised, "#f26419", "1  up the gradient, by rho"),
        (raised, compressed, "#33658a", "2  the smaller weight goes"),
        (theta, theta + step, "#2f9e44", "3  back, and a step by both gradients"),
    ]
    for start, end, color, label in moves:
        arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 2}
        axis.annotate("", end.tolist(), start.tolist(), arrowprops=arrow)
        axis.plot([], [], color=color, linewidth=2, label=label)
    for point, text in ((theta, "weights"), (compressed, "compressed: second gradient")):
        axis.plot(*point.tolist(), "o", color="black", markersize=5)
        axis.annotate(text, point.tolist(), xytext=(6, -13), textcoords="offset points", fontsize=8)
    axis.set(xlabel="a weight", ylabel="another", xlim=(-0.6, 3.6), ylim=(-0.9, 3.2))
    axis.legend(fontsize=8, loc="upper left", frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images/cram.png")
