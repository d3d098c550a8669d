# SPDX-License-Identifier: Apache-2.0
"""Residual networks (He et al., 2016) that can grow in width and depth while they are trained."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hylora.training.fields import check_choice, check_range

__all__ = ["RESNETS", "ResNet", "ResNetConfig", "scaled_depth", "scaled_width"]

MODEL_TYPE = "hylora_resnet"
_CONFIG_NAME = "config.json"
_WEIGHTS_NAME = "model.safetensors"

# Widths are multiples of it (equation 4.1), and it is the size of a group in group norms.
_GROUP = 8

# The last convolution of a bottleneck has so many times the channels of the others.
_EXPANSION = {"basic": 1, "bottleneck": 4}


def _cifar(layers: int, widths: tuple[int, ...] = (16, 32, 64)) -> dict[str, Any]:
    return {"stem": "cifar", "block": "basic", "widths": widths, "layers": (layers,) * len(widths)}


def _imagenet(block: str, *layers: int) -> dict[str, Any]:
    return {"stem": "imagenet", "block": block, "widths": (64, 128, 256, 512), "layers": layers}


# Those for CIFAR have 6n + 2 layers. ResNet-8 is for tests and demonstrations.
RESNETS = {
    "resnet8": _cifar(1),
    "resnet20": _cifar(3),
    "resnet32": _cifar(5),
    "resnet44": _cifar(7),
    "resnet56": _cifar(9),
    "resnet110": _cifar(18),
    "resnet18_cifar": _cifar(2, widths=(64, 128, 256, 512)),
    "resnet18": _imagenet("basic", 2, 2, 2, 2),
    "resnet34": _imagenet("basic", 3, 4, 6, 3),
    "resnet50": _imagenet("bottleneck", 3, 4, 6, 3),
    "resnet101": _imagenet("bottleneck", 3, 4, 23, 3),
}


def scaled_width(channels: int, factor: float) -> int:
    """`factor * channels` rounded up to a multiple of 8 (equation 4.1), so that it is never below 8."""
    # A product that is off by a rounding error must not cost another eight channels.
    return _GROUP * math.ceil(round(factor * channels, 6) / _GROUP)


def scaled_depth(layers: int, factor: float) -> int:
    """`factor * layers` rounded to the nearest integer, halves up, and at least 1 (equation 4.2)."""
    return max(1, math.floor(round(factor * layers, 6) + 0.5))


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """The shape of a residual network.

    Args:
        channels: of the images.
        classes: to tell apart.
        stem: `cifar` is a 3x3 convolution, `imagenet` one of 7x7 with stride 2 and max pooling after it.
        block: two 3x3 convolutions, or a 3x3 one between two of 1x1 of which the last has four times the channels.
        widths: channels of the blocks in each stage, at full width; multiples of 8. The stem has the first of them.
        layers: blocks of each stage, at full depth. All stages but the first halve the resolution.
        norm: of `batch` statistics, or of `group`s of 8 channels in each image alone.
        width: factor on all widths (`scaled_width`).
        depth: factor on all layers (`scaled_depth`).
        dropout: rate on the features before the classifier, in [0, 1).
        stochastic_depth: share of images for which the last block is passed over in training, in [0, 1). For the
            blocks before, it falls by a straight line to 0 at the stem (Huang et al., 2016).

    Raises:
        ValueError: if no network has this shape.
    """

    channels: int
    classes: int
    stem: Literal["cifar", "imagenet"]
    block: Literal["basic", "bottleneck"]
    widths: tuple[int, ...]
    layers: tuple[int, ...]
    norm: Literal["batch", "group"] = "batch"
    width: float = 1.0
    depth: float = 1.0
    dropout: float = 0.0
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        for name in ("widths", "layers"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_choice(self, "stem", "block", "norm")
        check_range(self, "channels", "classes", "layers", "widths", least=1)
        check_range(self, "width", "depth", above=0)
        check_range(self, "dropout", "stochastic_depth", least=0, below=1)
        if any(width % _GROUP for width in self.widths):
            raise ValueError(f"widths={self.widths!r} must be multiples of {_GROUP}")
        if len(self.widths) != len(self.layers) or not self.widths:
            raise ValueError(f"layers={self.layers!r} must have a number for each of widths={self.widths!r}")

    @property
    def scaled_widths(self) -> tuple[int, ...]:
        """Channels within the blocks of each stage, as they are."""
        return tuple(scaled_width(width, self.width) for width in self.widths)

    @property
    def scaled_layers(self) -> tuple[int, ...]:
        """Blocks of each stage, as they are."""
        return tuple(scaled_depth(layers, self.depth) for layers in self.layers)

    @property
    def stride(self) -> int:
        """Pixels of the image, along each side, for one position of the last features."""
        return (4 if self.stem == "imagenet" else 1) * 2 ** (len(self.widths) - 1)


class _Block(nn.Module):
    """Convolutions beside a shortcut.

    Args:
        config: of the network.
        channels: of its input.
        width: channels of its convolutions but the last.
        output: channels of the last one.
        stride: by which it reduces the resolution.
        projects: whether the shortcut is a convolution, as where the shapes of input and output differ.
        drop: share of images for which it is passed over in training.
    """

    def __init__(
        self,
        config: ResNetConfig,
        channels: int,
        width: int,
        output: int,
        stride: int = 1,
        projects: bool = False,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        if config.block == "basic":
            sizes = [(channels, width, 3, stride), (width, output, 3, 1)]
        else:
            sizes = [(channels, width, 1, 1), (width, width, 3, stride), (width, output, 1, 1)]
        self.convolutions = nn.ModuleList(_Convolution(config, *size) for size in sizes)
        self.shortcut = _Convolution(config, channels, output, 1, stride) if projects else nn.Identity()
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, h, w] to [B, output, h / stride, w / stride], rounded up."""
        inner = x
        for number, convolution in enumerate(self.convolutions):
            inner = convolution(F.relu(inner) if number else inner)
        if self.training and self.drop:
            stays = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop
            inner = inner * stays / (1 - self.drop)
        return F.relu(self.shortcut(x) + inner)


class _Convolution(nn.Sequential):
    """A convolution and its norm, [B, channels, h, w] to [B, width, h / stride, w / stride], rounded up."""

    def __init__(self, config: ResNetConfig, channels: int, width: int, kernel: int, stride: int) -> None:
        norm = nn.BatchNorm2d(width) if config.norm == "batch" else nn.GroupNorm(width // _GROUP, width)
        super().__init__(
            nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False),
            norm,
        )


class ResNet(nn.Module):
    """A residual network with a classifier of its mean features.

    Args:
        config: its shape.
        draw: gives the random weights to start from; None makes them on the meta device, with shapes alone.
    """

    def __init__(self, config: ResNetConfig, draw: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        # torch's own initial weights would come from its global generator.
        with torch.device("meta"):
            self._build()
        if draw is not None:
            self.to_empty(device="cpu")
            self._initialise(draw)

    def _build(self) -> None:
        config = self.config
        kernel, stride = (7, 2) if config.stem == "imagenet" else (3, 1)
        self.stem = _Convolution(config, config.channels, config.scaled_widths[0], kernel, stride)
        channels, expansion = config.scaled_widths[0], _EXPANSION[config.block]
        last = sum(config.scaled_layers) - 1
        stages, number = [], 0
        for stage, (width, layers) in enumerate(zip(config.scaled_widths, config.scaled_layers, strict=True)):
            output = scaled_width(expansion * config.widths[stage], config.width)
            blocks = []
            for layer in range(layers):
                # Told from the full network, so that a shortcut is of one kind at every width.
                first = {"stride": 2 if stage else 1, "projects": bool(stage) or expansion > 1} if layer == 0 else {}
                drop = config.stochastic_depth * (number + 1) / (last + 1)
                blocks.append(_Block(config, channels, width, output, drop=drop, **first))
                channels, number = output, number + 1
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, config.classes)

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
        """Pixels along a side for one position of the last features; smaller images make no sense."""
        return self.config.stride

    def features(self, images: Tensor) -> Tensor:
        """Images [B, channels, H, W] of any size to their mean features, [B, D]."""
        x = F.relu(self.stem(images))
        if self.config.stem == "imagenet":
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        return self.stages(x).mean((-2, -1))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, channels, H, W] of any size to logits [B, classes]."""
        return self.head(F.dropout(self.features(images), self.config.dropout, self.training))

    def grow(self, width: float, depth: float, draw: torch.Generator) -> bool:
        """Widen and deepen the network to these factors (section 4.4.1).

        Trained weights and statistics become the leading corner of the larger tensors, blocks are added at the end of
        each stage, and what is new is drawn as in a network of the new size that is not trained. Names stay. The
        network's parts are then other modules; nothing is changed where the factors come to the same shape.

        Args:
            width: as in the config, not below the present one.
            depth: likewise.
            draw: gives the new weights.

        Returns:
            Whether the network changed.

        Raises:
            ValueError: if it would have to shrink.
        """
        for name, factor in (("width", width), ("depth", depth)):
            if factor < getattr(self.config, name):
                raise ValueError(f"{name}={factor!r} must not be below the network's, {getattr(self.config, name)!r}")
        before, self.config = self.config, dataclasses.replace(self.config, width=width, depth=depth)
        shape = ("scaled_widths", "scaled_layers")
        if all(getattr(before, name) == getattr(self.config, name) for name in shape):
            return False
        grown = ResNet(self.config, draw).to(self.head.weight.device, self.head.weight.dtype)
        trained = self.state_dict()
        with torch.no_grad():
            for name, value in grown.state_dict().items():
                if name in trained:
                    value[tuple(map(slice, trained[name].shape))] = trained[name]
        for name, part in grown.named_children():
            setattr(self, name, part.train(self.training))
        return True

    def save(self, folder: str | PathLike, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the weights as safetensors, and the shape as JSON.

        Args:
            folder: to write into.
            state: the weights, where this module holds only a share of them; None for its own.
        """
        state = self.state_dict() if state is None else state
        weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        save_file(weights, Path(folder, _WEIGHTS_NAME))
        config = {"model_type": MODEL_TYPE, **dataclasses.asdict(self.config)}
        Path(folder, _CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | PathLike) -> ResNet:
        """Read back what `save` wrote."""
        config = json.loads(Path(folder, _CONFIG_NAME).read_text(encoding="utf-8"))
        network = cls(ResNetConfig(**{key: value for key, value in config.items() if key != "model_type"}))
        network.load_state_dict(load_file(Path(folder, _WEIGHTS_NAME)), assign=True)
        return network
