# SPDX-License-Identifier: Apache-2.0
"""Layers that use the first of their channels alone (slimmable networks; Yu et al., 2019)."""

from __future__ import annotations

import functools
import math

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from vision_extras.subspaces.position import Position

__all__ = ["Slim", "channels_at", "make_slim", "slim_class"]


def channels_at(width: float, channels: int) -> int:
    """How many of a layer's channels stay: the share of them, halves rounded up, and one at least.

    Equal numbers become equal ones at every width, so that they can be added.
    """
    # 0.29 * 50 is 14.5, which floating point puts below it.
    return max(1, math.floor(round(width * channels, 9) + 0.5))


class Slim(nn.Module):
    """A layer that takes as many channels as its input has, and gives as many as a position says.

    It is the layer that it was, in another class: its tensors are those of the full width, under their names, and each
    width uses their leading corner.

    Attributes:
        position: whose level is the width.
        whole: whether all output channels are given at every width.
        axis: where an input has its channels.
    """

    position: Position
    whole: bool
    axis: int = 1

    def forward(self, input: Tensor) -> Tensor:
        """An input of any width to an output of the layer's width for it."""
        return self._apply_corner(input, **self._corner(input.shape[self.axis]))

    def settle(self, channels: int) -> None:
        """Become a plain layer, with what inputs of so many channels use at the present level."""
        for name, value in self._corner(channels).items():
            if value is not None:
                kept = value.detach().clone()
                if name in self._parameters:
                    kept = nn.Parameter(kept, self._parameters[name].requires_grad)
                setattr(self, name, kept)
        self._resize(channels)
        self.release()

    def release(self) -> None:
        """Become a plain layer of full width."""
        del self.position, self.whole
        self.__class__ = type(self).__bases__[1]

    @property
    def full(self) -> int:
        """Output channels at full width."""
        raise NotImplementedError

    def _outputs(self) -> int:
        return self.full if self.whole else channels_at(self.position.level, self.full)

    def _corner(self, channels: int) -> dict[str, Tensor | None]:
        """The part of each tensor that inputs of so many channels use."""
        raise NotImplementedError

    def _apply_corner(self, x: Tensor, **corner: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _resize(self, channels: int) -> None:
        """Say how large the layer is, now that its tensors are of one width."""
        raise NotImplementedError


class SlimConvolution(Slim):
    """A convolution of all channels, or of each channel alone (depthwise), which gives as many as it is given."""

    @property
    def full(self) -> int:
        return self.out_channels

    def _corner(self, channels: int) -> dict[str, Tensor | None]:
        if self.groups == 1:
            outputs = self._outputs()
            weight = self.weight[:outputs, :channels]
        else:
            outputs = channels * (self.out_channels // self.in_channels)
            weight = self.weight[:outputs]
        return {"weight": weight, "bias": None if self.bias is None else self.bias[:outputs]}

    def _apply_corner(self, x: Tensor, **corner: Tensor | None) -> Tensor:
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(self.kernel_size) - 1]
        padding, groups = self.padding, 1 if self.groups == 1 else x.shape[1]
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._reversed_padding_repeated_twice, self.padding_mode), 0
        return convolve(x, **corner, stride=self.stride, padding=padding, dilation=self.dilation, groups=groups)

    def _resize(self, channels: int) -> None:
        self.groups = 1 if self.groups == 1 else channels
        self.in_channels, self.out_channels = channels, len(self.weight)


class SlimLinear(Slim):
    """A linear layer, of the last dimension."""

    axis = -1

    @property
    def full(self) -> int:
        return self.out_features

    def _corner(self, channels: int) -> dict[str, Tensor | None]:
        outputs = self._outputs()
        bias = None if self.bias is None else self.bias[:outputs]
        return {"weight": self.weight[:outputs, :channels], "bias": bias}

    def _apply_corner(self, x: Tensor, **corner: Tensor | None) -> Tensor:
        return F.linear(x, **corner)

    def _resize(self, channels: int) -> None:
        self.out_features, self.in_features = self.weight.shape


class SlimNorm(Slim):
    """A norm of each channel by itself, over images or within each of them, which follows its input."""

    @property
    def full(self) -> int:
        return self.num_features

    def _corner(self, channels: int) -> dict[str, Tensor | None]:
        names = ("weight", "bias", "running_mean", "running_var")
        tensors = {name: getattr(self, name) for name in names}
        return {name: None if value is None else value[:channels] for name, value in tensors.items()}

    def _resize(self, channels: int) -> None:
        self.num_features = channels


class SlimInstanceNorm(SlimNorm):
    """A norm of each channel of each image."""

    def _apply_corner(self, x: Tensor, **corner: Tensor | None) -> Tensor:
        of_image = self.training or not self.track_running_stats
        return F.instance_norm(x, **corner, use_input_stats=of_image, momentum=self.momentum or 0.0, eps=self.eps)


class SlimBatchNorm(SlimNorm):
    """A norm of each channel over images, whose statistics all widths move."""

    def _apply_corner(self, x: Tensor, **corner: Tensor | None) -> Tensor:
        momentum = self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1 / float(self.num_batches_tracked)
        of_batch = self.training or self.running_mean is None
        return F.batch_norm(x, **corner, training=of_batch, momentum=momentum or 0.0, eps=self.eps)


class SlimGroupNorm(Slim):
    """A norm of all channels of each image, or of each of them, which follows its input."""

    @property
    def full(self) -> int:
        return self.num_channels

    def _corner(self, channels: int) -> dict[str, Tensor | None]:
        tensors = {"weight": self.weight, "bias": self.bias}
        return {name: None if value is None else value[:channels] for name, value in tensors.items()}

    def _apply_corner(self, x: Tensor, **corner: Tensor | None) -> Tensor:
        return F.group_norm(x, 1 if self.num_groups == 1 else x.shape[1], **corner, eps=self.eps)

    def _resize(self, channels: int) -> None:
        self.num_groups = 1 if self.num_groups == 1 else channels
        self.num_channels = channels


_SLIM: dict[type[nn.Module], type[Slim]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), SlimConvolution),
    nn.Linear: SlimLinear,
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), SlimInstanceNorm),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), SlimBatchNorm),
    nn.GroupNorm: SlimGroupNorm,
}

# Layers with forward passes of their own that come to those of torch.
_ALIKE = ("timm.layers.linear.Linear",)


def slim_class(layer: nn.Module) -> type[Slim] | None:
    """The class of a layer's slim counterpart; None for a module that has no channels of its own.

    Raises:
        ValueError: if the layer has channels, but its first ones make no layer; it says what would.
    """
    if not isinstance(layer, (_ConvNd, _NormBase, nn.Linear, nn.GroupNorm)):
        return None
    kind, own = next((kind for kind in _SLIM if isinstance(layer, kind)), None), type(layer)
    if kind is None or (own.forward is not kind.forward and f"{own.__module__}.{own.__name__}" not in _ALIKE):
        raise ValueError(
            f"the forward pass of {own.__name__} may use more than the first of its channels; take a layer of torch.nn"
        )
    if isinstance(layer, _ConvNd) and layer.groups not in (1, layer.in_channels):
        raise ValueError(
            f"each of its groups={layer.groups} has several channels, of which none can go alone; take groups=1, or "
            "one for each channel"
        )
    if isinstance(layer, nn.GroupNorm) and layer.num_groups not in (1, layer.num_channels):
        raise ValueError(
            f"its {layer.num_groups} groups would not divide what stays of its {layer.num_channels} channels; take "
            "norms of each channel, as subspace.norm='instance' makes of batch norms, or one group of all channels"
        )
    return _slim_class(kind, own)


def make_slim(layer: nn.Module, kind: type[Slim], position: Position, whole: bool) -> None:
    """Make a layer look at a position, in place, so that whatever refers to it has the slim one.

    Args:
        layer: that has channels.
        kind: its `slim_class`.
        position: whose level is the width.
        whole: whether all output channels are given at every width.
    """
    layer.__class__ = kind
    layer.position, layer.whole = position, whole


@functools.cache
def _slim_class(kind: type[nn.Module], own: type[nn.Module]) -> type[Slim]:
    return type(f"Slim{own.__name__}", (_SLIM[kind], own), {})
