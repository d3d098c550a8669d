# SPDX-License-Identifier: Apache-2.0
"""VGG11 and VGG19 (Simonyan and Zisserman, 2015) as the thesis has them: with norms, and one linear layer of three."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hylora.training.fields import check_choice, check_range
from vision_extras.models.resnet_config import GROUP, scaled_width
from vision_extras.models.weights import StoredNetwork, drawn_from

__all__ = ["MODEL_TYPE", "VGG", "VGGS", "VGGConfig"]

MODEL_TYPE = "hylora_vgg"

# Channels of the 3x3 convolutions of each stage. Max pooling after each stage halves the resolution.
VGGS = {
    "vgg11": ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    "vgg19": ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}


@dataclass(frozen=True, kw_only=True)
class VGGConfig:
    """The shape of a VGG.

    Args:
        name: which one.
        channels: of the images.
        classes: to tell apart.
        norm: of `batch` statistics, or of `group`s of 8 channels in each image alone.
        width: factor on all channels, which are rounded up to multiples of 8.
        dropout: rate on the features before the classifier, in [0, 1).

    Raises:
        ValueError: if no network has this shape.
    """

    name: Literal["vgg11", "vgg19"] = "vgg11"
    channels: int
    classes: int
    norm: Literal["batch", "group"] = "batch"
    width: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_choice(self, "name", "norm")
        check_range(self, "channels", "classes", least=1)
        check_range(self, "width", above=0)
        check_range(self, "dropout", least=0, below=1)


class VGG(StoredNetwork):
    """Eight or sixteen convolutions with norms, and a classifier of their mean features.

    An image of 32x32 pixels has one position of features at the end, larger ones have more.

    Args:
        config: its shape.
        draw: gives the random weights to start from; None makes them on the meta device, with shapes alone.
    """

    stride = 32

    def __init__(self, config: VGGConfig, draw: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        with drawn_from(draw):
            channels, stages = config.channels, []
            for widths in VGGS[config.name]:
                layers: list[nn.Module] = []
                for width in (scaled_width(width, config.width) for width in widths):
                    norm = nn.BatchNorm2d(width) if config.norm == "batch" else nn.GroupNorm(width // GROUP, width)
                    layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), norm, nn.ReLU()]
                    channels = width
                stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
            self.stages = nn.Sequential(*stages)
            self.head = nn.Linear(channels, config.classes)
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> Tensor:
        """Images [B, channels, H, W] of at least 32x32 pixels to their mean features, [B, D]."""
        return self.stages(images).mean((-2, -1))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, channels, H, W] of at least 32x32 pixels to logits [B, classes]."""
        return self.head(F.dropout(self.features(images), self.config.dropout, self.training))

    @property
    def shape(self) -> dict[str, Any]:
        return {"model_type": MODEL_TYPE, **dataclasses.asdict(self.config)}

    @classmethod
    def from_shape(cls, shape: Mapping[str, Any], draw: torch.Generator | None) -> VGG:
        return cls(VGGConfig(**{key: value for key, value in shape.items() if key != "model_type"}), draw)
