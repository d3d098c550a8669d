# SPDX-License-Identifier: Apache-2.0
"""The shapes of residual networks: which there are, how they scale, and what they take."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from hylora.training.fields import check_choice, check_range

__all__ = ["GROUP", "RESNETS", "BlockShape", "ConvolutionShape", "ResNetConfig", "scaled_depth", "scaled_width"]

# Widths are multiples of it (equation 4.1), and it is the size of a group in group norms.
GROUP = 8

# The last convolution of a block has so many times the channels of the others.
_EXPANSION = {"basic": 1, "bottleneck": 4, "preactivation": 4}


def _cifar(layers: int, widths: tuple[int, ...] = (16, 32, 64), block: str = "basic") -> dict[str, Any]:
    return {"stem": "cifar", "block": block, "widths": widths, "layers": (layers,) * len(widths)}


def _imagenet(block: str, *layers: int) -> dict[str, Any]:
    return {"stem": "imagenet", "block": block, "widths": (64, 128, 256, 512), "layers": layers}


# Those for CIFAR have 6n + 2 layers, or 9n + 2 of pre-activation. ResNet-8 is for tests and demonstrations.
RESNETS = {
    "resnet8": _cifar(1),
    "resnet20": _cifar(3),
    "resnet32": _cifar(5),
    "resnet44": _cifar(7),
    "resnet56": _cifar(9),
    "resnet110": _cifar(18),
    "cpreresnet20": _cifar(2, block="preactivation"),
    "resnet18_cifar": _cifar(2, widths=(64, 128, 256, 512)),
    "resnet18": _imagenet("basic", 2, 2, 2, 2),
    "resnet34": _imagenet("basic", 3, 4, 6, 3),
    "resnet50": _imagenet("bottleneck", 3, 4, 6, 3),
    "resnet101": _imagenet("bottleneck", 3, 4, 23, 3),
}


def scaled_width(channels: int, factor: float) -> int:
    """`factor * channels` rounded up to a multiple of 8 (equation 4.1), so that it is never below 8."""
    # A product that is off by a rounding error must not cost another eight channels.
    return GROUP * math.ceil(round(factor * channels, 6) / GROUP)


def scaled_depth(layers: int, factor: float) -> int:
    """`factor * layers` rounded to the nearest integer, halves up, and at least 1 (equation 4.2)."""
    return max(1, math.floor(round(factor * layers, 6) + 0.5))


class ConvolutionShape(NamedTuple):
    """From [B, channels, h, w] to [B, width, h / stride, w / stride], rounded up."""

    channels: int
    width: int
    kernel: int
    stride: int


class BlockShape(NamedTuple):
    """Convolutions one after another beside a shortcut, which is one too where the shapes at its ends differ."""

    convolutions: tuple[ConvolutionShape, ...]
    shortcut: ConvolutionShape | None


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """The shape of a residual network.

    Args:
        channels: of the images.
        classes: to tell apart.
        stem: `cifar` is a 3x3 convolution, `imagenet` one of 7x7 with stride 2 and max pooling after it.
        block: two 3x3 convolutions (`basic`), or a 3x3 one between two of 1x1 of which the last has four times the
            channels (`bottleneck`). With `preactivation` a norm and a ReLU come before each of the three, the
            shortcut sees what the block is given, and another norm and ReLU follow the last block (He et al., 2016b).
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
    block: Literal["basic", "bottleneck", "preactivation"]
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
        if any(width % GROUP for width in self.widths):
            raise ValueError(f"widths={self.widths!r} must be multiples of {GROUP}")
        if len(self.widths) != len(self.layers) or not self.widths:
            raise ValueError(f"layers={self.layers!r} must have one number for each of widths={self.widths!r}")

    @property
    def preactivates(self) -> bool:
        """Whether norms and ReLUs come before convolutions."""
        return self.block == "preactivation"

    @property
    def stem_shape(self) -> ConvolutionShape:
        """The first convolution."""
        kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        return ConvolutionShape(self.channels, scaled_width(self.widths[0], self.width), kernel, stride)

    @property
    def features(self) -> int:
        """Channels at the end, of which the classifier sees the means."""
        return scaled_width(_EXPANSION[self.block] * self.widths[-1], self.width)

    @property
    def stride(self) -> int:
        """Pixels of the image, along each side, for one position of the last features."""
        return (4 if self.stem == "imagenet" else 1) * 2 ** (len(self.widths) - 1)

    @property
    def stages(self) -> list[list[BlockShape]]:
        """The blocks of each stage."""
        channels, stages = self.stem_shape.width, []
        for stage, layers in enumerate(self.layers):
            width = scaled_width(self.widths[stage], self.width)
            output = scaled_width(_EXPANSION[self.block] * self.widths[stage], self.width)
            stride = 2 if stage else 1
            # Told from the full network, so that a block has the same parts at every width.
            projects = stage > 0 or self.block != "basic"
            shortcut = ConvolutionShape(channels, output, 1, stride) if projects else None
            first = BlockShape(self._convolutions(channels, width, output, stride), shortcut)
            other = BlockShape(self._convolutions(output, width, output, 1), None)
            stages.append([first] + [other] * (scaled_depth(layers, self.depth) - 1))
            channels = output
        return stages

    def _convolutions(self, channels: int, width: int, output: int, stride: int) -> tuple[ConvolutionShape, ...]:
        if self.block == "basic":
            sizes = [(channels, width, 3, stride), (width, output, 3, 1)]
        else:
            sizes = [(channels, width, 1, 1), (width, width, 3, stride), (width, output, 1, 1)]
        return tuple(ConvolutionShape(*size) for size in sizes)

    def _all_convolutions(self) -> list[ConvolutionShape]:
        blocks = itertools.chain.from_iterable(self.stages)
        shapes = ([*block.convolutions, *filter(None, [block.shortcut])] for block in blocks)
        return [self.stem_shape, *itertools.chain.from_iterable(shapes)]

    @property
    def parameters(self) -> int:
        """How many numbers are trained: weights of convolutions, two for each channel of their norms, the head's."""
        shapes, blocks = self._all_convolutions(), itertools.chain.from_iterable(self.stages)
        if self.preactivates:
            normed = [shape.channels for block in blocks for shape in block.convolutions] + [self.features]
        else:
            normed = [shape.width for shape in shapes]
        weights = sum(shape.width * shape.channels * shape.kernel**2 for shape in shapes)
        return weights + 2 * sum(normed) + (self.features + 1) * self.classes

    def training_flops(self, height: int, width: int) -> int:
        """Operations of one image's pass forward and backward: what `metrics.training_flops` counts, at once.

        Args:
            height, width: of the image, in pixels.
        """

        def forward(shape: ConvolutionShape, stride: int) -> int:
            positions = -(-height // stride) * -(-width // stride)
            return 2 * shape.channels * shape.width * shape.kernel**2 * positions

        # The gradients of weights and of inputs take as much each; those of the image are not needed.
        total = 2 * forward(self.stem_shape, self.stem_shape.stride)
        stride = 4 if self.stem == "imagenet" else 1
        for block in itertools.chain.from_iterable(self.stages):
            if block.shortcut:
                total += 3 * forward(block.shortcut, stride * block.shortcut.stride)
            for shape in block.convolutions:
                stride *= shape.stride
                total += 3 * forward(shape, stride)
        return total + 3 * 2 * self.features * self.classes
