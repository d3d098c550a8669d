# SPDX-License-Identifier: Apache-2.0
"""A small residual network for small images, which can grow while it is trained."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = ["CONFIG_NAME", "STRIDE", "NetworkConfig", "ResidualNetwork"]

CONFIG_NAME = "config.json"
_WEIGHTS_NAME = "model.safetensors"

# Pixels of the image, along each side, for one position of the features.
STRIDE = 2


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The shape of a network.

    Args:
        channels: of the images.
        classes: to tell apart.
        width: features at each position; a multiple of 8, the size of a group in the norms.
        blocks: residual blocks.

    Raises:
        ValueError: if no network has this shape.
    """

    channels: int
    classes: int
    width: int
    blocks: int

    def __post_init__(self) -> None:
        for name in ("channels", "classes", "blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least 1")
        if self.width < 8 or self.width % 8:
            raise ValueError(f"width={self.width!r} must be a positive multiple of 8, the size of a norm's group")


def _norm(width: int) -> nn.GroupNorm:
    """Statistics of each image alone, so that results do not depend on how images are spread over passes."""
    return nn.GroupNorm(width // 8, width)


class _Block(nn.Module):
    """Two convolutions beside a path that leaves its input as it is.

    What they add is scaled by `scale`, for each feature.

    Args:
        width: features at each position.
        draw: gives the weights.
        scale: to start from. With 0 the block changes nothing until it has learned something.
    """

    def __init__(self, width: int, draw: torch.Generator, scale: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(width), _norm(width)
        self.conv1, self.conv2 = (_convolution(width, width, 1, draw) for _ in range(2))
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] to the same."""
        inner = self.conv1(F.relu(self.norm1(x)))
        return x + self.scale[:, None, None] * self.conv2(F.relu(self.norm2(inner)))


def _convolution(channels: int, width: int, stride: int, draw: torch.Generator) -> nn.Conv2d:
    convolution = nn.utils.skip_init(nn.Conv2d, channels, width, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, generator=draw)
    return convolution


class ResidualNetwork(nn.Module):
    """A stem that halves the resolution, residual blocks, and a linear classifier of each quarter's mean features.

    Args:
        config: its shape.
        draw: gives the random weights to start from.
    """

    def __init__(self, config: NetworkConfig, draw: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.stem = _convolution(config.channels, config.width, STRIDE, draw)
        self.blocks = nn.ModuleList(_Block(config.width, draw, scale=1.0) for _ in range(config.blocks))
        self.norm = _norm(config.width)
        self.head = nn.utils.skip_init(nn.Linear, 4 * config.width, config.classes)
        nn.init.kaiming_normal_(self.head.weight, nonlinearity="linear", generator=draw)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] of any size to logits [B, classes]."""
        features = self.stem(images)
        for block in self.blocks:
            features = block(features)
        quarters = F.adaptive_avg_pool2d(F.relu(self.norm(features)), 2)
        return self.head(quarters.flatten(1))

    def grow(self, blocks: int, draw: torch.Generator) -> bool:
        """Add blocks at the end, without changing what the network computes.

        Args:
            blocks: how many there are to be.
            draw: gives the new weights.

        Returns:
            Whether there were fewer.
        """
        missing = blocks - len(self.blocks)
        for _ in range(missing):
            self.blocks.append(_Block(self.config.width, draw, scale=0.0).to(self.head.weight.device))
        self.config = dataclasses.replace(self.config, blocks=len(self.blocks))
        return missing > 0

    def prunable(self) -> dict[str, nn.Parameter]:
        """The weights of the blocks' convolutions, by name. The stem and the classifier are small and stay whole."""
        return {f"blocks.{name}": weight for name, weight in self.blocks.named_parameters() if weight.ndim > 1}

    def save(self, folder: str | PathLike, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the weights as safetensors, and the shape as JSON.

        Args:
            folder: to write into.
            state: the weights, where this module holds only a share of them; None for its own.
        """
        state = self.state_dict() if state is None else state
        weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        save_file(weights, Path(folder, _WEIGHTS_NAME))
        text = json.dumps(dataclasses.asdict(self.config), indent=2) + "\n"
        Path(folder, CONFIG_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | PathLike) -> ResidualNetwork:
        """Read back what `save` wrote."""
        config = NetworkConfig(**json.loads(Path(folder, CONFIG_NAME).read_text(encoding="utf-8")))
        network = cls(config, torch.Generator())
        network.load_state_dict(load_file(Path(folder, _WEIGHTS_NAME)))
        return network
