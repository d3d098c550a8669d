# SPDX-License-Identifier: Apache-2.0
"""Residual networks (He et al., 2016) that can grow in width and depth while they are trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_extras.models.resnet_config import GROUP, BlockShape, ConvolutionShape, ResNetConfig
from vision_extras.models.weights import StoredNetwork

__all__ = ["MODEL_TYPE", "ResNet"]

MODEL_TYPE = "hylora_resnet"


def _norm(channels: int, config: ResNetConfig) -> nn.Module:
    return nn.BatchNorm2d(channels) if config.norm == "batch" else nn.GroupNorm(channels // GROUP, channels)


def _convolution(shape: ConvolutionShape) -> nn.Conv2d:
    return nn.Conv2d(*shape, padding=shape.kernel // 2, bias=False)


def _outer(shape: ConvolutionShape, config: ResNetConfig) -> nn.Sequential:
    """A convolution at the stem or in a shortcut, whose norm is left to the blocks where those begin with one."""
    norms = [] if config.preactivates else [_norm(shape.width, config)]
    return nn.Sequential(_convolution(shape), *norms)


def _inner(shape: ConvolutionShape, config: ResNetConfig) -> nn.Sequential:
    """A convolution in a block."""
    if config.preactivates:
        return nn.Sequential(_norm(shape.channels, config), nn.ReLU(), _convolution(shape))
    return nn.Sequential(_convolution(shape), _norm(shape.width, config))


class _Block(nn.Module):
    """Convolutions beside a shortcut.

    Args:
        shape: of them.
        config: of the network.
        drop: share of images for which it is passed over in training.
    """

    def __init__(self, shape: BlockShape, config: ResNetConfig, drop: float) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(_inner(size, config) for size in shape.convolutions)
        self.shortcut = _outer(shape.shortcut, config) if shape.shortcut else nn.Identity()
        self.activation = nn.Identity() if config.preactivates else nn.ReLU()
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, h, w] to [B, width, h / stride, w / stride], rounded up."""
        first, *others = self.convolutions
        inner = first(x)
        for convolution in others:
            inner = convolution(self.activation(inner))
        if self.training and self.drop:
            stays = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop
            inner = inner * (stays / (1 - self.drop)).to(inner.dtype)
        return self.activation(self.shortcut(x) + inner)


class ResNet(StoredNetwork):
    """A residual network with a linear classifier of its mean features.

    Args:
        config: its shape.
        draw: gives the random weights to start from; None makes them on the meta device, with shapes alone.
    """

    def __init__(self, config: ResNetConfig, draw: torch.Generator | None) -> None:
        super().__init__()
        self.config = config
        blocks, number = sum(map(len, config.stages)), 0
        # torch's own initial weights would come from its global generator.
        with torch.device("meta"):
            self.stem = _outer(config.stem_shape, config)
            self.activation = nn.Identity() if config.preactivates else nn.ReLU()
            self.stages = nn.ModuleList()
            for shapes in config.stages:
                self.stages.append(nn.ModuleList())
                for shape in shapes:
                    number += 1
                    self.stages[-1].append(_Block(shape, config, config.stochastic_depth * number / blocks))
            norms = [_norm(config.features, config), nn.ReLU()] if config.preactivates else []
            self.last = nn.Sequential(*norms)
            self.head = nn.Linear(config.features, config.classes)
        if draw is not None:
            self.to_empty(device="cpu")
            self._initialise(draw)

    def _initialise(self, draw: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=draw)
            elif isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear", generator=draw)
                nn.init.zeros_(module.bias)
            elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
                module.reset_parameters()

    @property
    def stride(self) -> int:
        """Pixels along a side for one position of the last features; a smaller image makes no sense."""
        return self.config.stride

    def features(self, images: Tensor) -> Tensor:
        """Images [B, channels, H, W] of any size to their mean features, [B, D]."""
        x = self.activation(self.stem(images))
        if self.config.stem == "imagenet":
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        for blocks in self.stages:
            for block in blocks:
                x = block(x)
        return self.last(x).mean((-2, -1))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, channels, H, W] of any size to logits [B, classes]."""
        return self.head(F.dropout(self.features(images), self.config.dropout, self.training))

    def grow(self, width: float, depth: float, draw: torch.Generator) -> bool:
        """Widen and deepen the network to these factors (section 4.4.1).

        Trained weights and statistics become the leading corner of the larger tensors, blocks are added at the end of
        each stage, and what is new is drawn as for a network of the new size that is not trained. Names stay. The
        network's parts are then other modules; where the factors come to the same shape, they stay too.

        Args:
            width: as in the config; not below the present one.
            depth: likewise.
            draw: gives the new weights.

        Returns:
            Whether the network changed.

        Raises:
            ValueError: if it would have to shrink.
        """
        if (width, depth) == (self.config.width, self.config.depth):
            return False
        for name, factor in (("width", width), ("depth", depth)):
            if factor < getattr(self.config, name):
                raise ValueError(f"{name}={factor!r} must not be below the network's, {getattr(self.config, name)!r}")
        before, self.config = self.config, dataclasses.replace(self.config, width=width, depth=depth)
        if self.config.stages == before.stages:
            return False
        grown = ResNet(self.config, draw).to(self.head.weight)
        trained = self.state_dict()
        with torch.no_grad():
            for name, value in grown.state_dict().items():
                if name in trained:
                    value[tuple(map(slice, trained[name].shape))] = trained[name]
        for name, part in grown.named_children():
            setattr(self, name, part.train(self.training))
        return True

    @property
    def shape(self) -> dict[str, Any]:
        return {"model_type": MODEL_TYPE, **dataclasses.asdict(self.config)}

    @classmethod
    def from_shape(cls, shape: Mapping[str, Any], draw: torch.Generator | None) -> ResNet:
        return cls(ResNetConfig(**{key: value for key, value in shape.items() if key != "model_type"}), draw)
