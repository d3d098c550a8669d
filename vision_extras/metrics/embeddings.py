# SPDX-License-Identifier: Apache-2.0
"""How far embeddings move when images are zoomed and turned (section 4.2.2, metric 3; figure 4.3b)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["VIEWS", "embedding_metrics", "embedding_sums", "find_head", "penultimate", "views_of"]

# (zoom, degrees): the image, from nearer and from further, and turned to either side.
VIEWS = ((1.0, 0.0), (1.25, 0.0), (0.8, 0.0), (1.0, 15.0), (1.0, -15.0))


def views_of(images: Tensor) -> Iterator[Tensor]:
    """The images as they are and then as `VIEWS` has them, zoomed and turned about their centres.

    Where a view goes beyond an image, the image's border is continued.

    Args:
        images: [B, C, H, W], floating point.
    """
    height, width = images.shape[-2:]
    for zoom, degrees in VIEWS:
        if (zoom, degrees) == (1.0, 0.0):
            yield images
            continue
        cosine, sine = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
        # Coordinates go from -1 to 1 along either side, of whatever length it is.
        matrix = images.new_tensor([[cosine, -sine * height / width, 0], [sine * width / height, cosine, 0]])
        grid = F.affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
        yield F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def find_head(network: nn.Module) -> nn.Module | None:
    """A network's classifier: its last linear layer, else its last convolution if that is of 1x1; None without one."""
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if linear:
        return linear[-1]
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    return convolutions[-1] if convolutions and convolutions[-1].kernel_size == (1, 1) else None


@contextmanager
def penultimate(network: nn.Module) -> Iterator[list[Tensor]]:
    """Keep the embeddings, [B, D], of each forward pass in the block: what the network's classifier is given.

    Those of a convolution are averaged over positions.

    Raises:
        ValueError: if the network has no classifier that can be told.
    """
    head = find_head(network)
    if head is None:
        raise ValueError(
            f"network={type(network).__name__} ends in neither a linear layer nor a 1x1 convolution, so that there is "
            "no telling which are its embeddings; end it in an nn.Linear"
        )
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept.append(inputs[0].mean((-2, -1)) if isinstance(module, nn.Conv2d) else inputs[0].flatten(1))

    handle = head.register_forward_pre_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


def embedding_sums(embeddings: Tensor) -> tuple[Tensor, ...]:
    """Sums over images, in float64, of which `embedding_metrics` makes metrics.

    Args:
        embeddings: [V, B, D], of V views of each image.

    Returns:
        Images, the summed variance of an image's embeddings over its views (the mean over dimensions), and over all
        views of all images the sum of embeddings, [D], and of their squares (the mean over dimensions).
    """
    embeddings = embeddings.double()
    return (
        torch.tensor(embeddings.shape[1]),
        (embeddings - embeddings.mean(dim=0)).square().mean(dim=(0, 2)).sum(),
        embeddings.sum(dim=(0, 1)),
        embeddings.square().mean(dim=-1).sum(),
    )


def embedding_metrics(count: Tensor, within: Tensor, total: Tensor, squares: Tensor) -> dict[str, float]:
    """How far embeddings move under zooms and turns, from the sums of `embedding_sums` over all images.

    The thesis plots the variance without saying over what it is taken, and means that embeddings are robust and
    selective, after Goodfellow et al. (2009), who relate responses to changed images to responses to any. So there are
    two numbers here: the variance, and the share of it in all variance, which the scale of embeddings does not change.

    Returns:
        `embedding_variance`: of an image's embeddings over its views, the mean over dimensions and images.
        `embedding_variance_share`: that, as a share of the variance over all views of all images: 0 where views leave
        embeddings as they are, 1 where images differ by no more than their views do.
    """
    views = len(VIEWS) * float(count)
    variance = float(within / count)
    whole = float(squares / views - (total / views).square().mean())
    return {"embedding_variance": variance, "embedding_variance_share": variance / whole if whole > 0 else 0.0}
