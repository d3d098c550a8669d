# SPDX-License-Identifier: Apache-2.0
"""Networks by name: made, saved and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike

import torch
from torch import Tensor, nn

from vision_extras.models.residual import NetworkConfig, ResidualNetwork

__all__ = ["ModelRecipe", "build_network", "load_network", "save_network"]


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """A network for images.

    Args:
        name: which one.
    """

    name: str = "residual"


def build_network(recipe: ModelRecipe, channels: int, classes: int, draw: torch.Generator) -> nn.Module:
    """A network with random weights, from images [B, channels, H, W] to logits [B, classes].

    Raises:
        ValueError: naming a field of the recipe that cannot work.
    """
    return ResidualNetwork(NetworkConfig(channels=channels, classes=classes, width=16, blocks=2), draw)


def save_network(network: nn.Module, folder: str | PathLike, state: Mapping[str, Tensor] | None = None) -> None:
    """Write a network's weights as safetensors and its shape as `config.json`.

    Args:
        network: made by `build_network`, and trained.
        folder: to write into.
        state: its weights, where this process holds only a share of them; None for its own.
    """
    network.save(folder, state)


def load_network(folder: str | PathLike) -> nn.Module:
    """Read back what `save_network` wrote."""
    return ResidualNetwork.load(folder)
