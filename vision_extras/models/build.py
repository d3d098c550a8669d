# SPDX-License-Identifier: Apache-2.0
"""Networks by name: made, saved and read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Literal

import torch
from torch import Tensor, nn

from hylora.training.fields import check_choice, check_range
from hylora.words import nearest
from vision_extras.models.resnet import ResNet
from vision_extras.models.resnet_config import RESNETS, ResNetConfig

__all__ = ["NETWORKS", "ModelRecipe", "build_network", "load_network", "resnet_config", "save_network"]


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """A network for images.

    Args:
        name: which one; resnet20 to resnet110 and resnet18_cifar are for small images.
        norm: of `batch` statistics, or of `group`s of 8 channels in each image alone.
        width: factor on its channels, which are rounded up to multiples of 8.
        depth: factor on the blocks of each stage, at least one of which stays.
        dropout: rate before the classifier.
        stochastic_depth: share of images for which the last block is passed over; less for those before it.
    """

    name: str = "resnet8"
    norm: Literal["batch", "group"] = "batch"
    width: float = 1.0
    depth: float = 1.0
    dropout: float = 0.0
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in NETWORKS:
            raise ValueError(
                f"name={self.name!r} must be {' | '.join(NETWORKS)}; the nearest is {nearest(self.name, NETWORKS)}"
            )
        check_choice(self, "norm")
        check_range(self, "width", "depth", above=0)
        check_range(self, "dropout", "stochastic_depth", least=0, below=1)


# A recipe, the images' channels, the number of classes, and what gives the weights; None for shapes alone.
Builder = Callable[[ModelRecipe, int, int, torch.Generator | None], nn.Module]


def resnet_config(recipe: ModelRecipe, channels: int, classes: int) -> ResNetConfig:
    """The shape of a network whose name is one of `RESNETS`."""
    return ResNetConfig(
        channels=channels,
        classes=classes,
        norm=recipe.norm,
        width=recipe.width,
        depth=recipe.depth,
        dropout=recipe.dropout,
        stochastic_depth=recipe.stochastic_depth,
        **RESNETS[recipe.name],
    )


def _build_resnet(recipe: ModelRecipe, channels: int, classes: int, draw: torch.Generator | None) -> ResNet:
    return ResNet(resnet_config(recipe, channels, classes), draw)


NETWORKS: dict[str, Builder] = dict.fromkeys(RESNETS, _build_resnet)


def build_network(recipe: ModelRecipe, channels: int, classes: int, draw: torch.Generator | None) -> nn.Module:
    """A network from images [B, channels, H, W] to logits [B, classes].

    Args:
        recipe: of the network.
        channels: of the images.
        classes: to tell apart.
        draw: gives the weights; None makes them on the meta device, with shapes alone.

    Raises:
        ValueError: naming a field of the recipe that cannot work.
    """
    return NETWORKS[recipe.name](recipe, channels, classes, draw)


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
    return ResNet.load(folder)
