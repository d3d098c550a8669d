# SPDX-License-Identifier: Apache-2.0
"""Which channels the layers of a slim network are given, found by running it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hylora.training.evaluation import evaluation_mode
from vision_extras.subspaces.slim import Slim

__all__ = ["channels_given", "check_channels"]


def channels_given(network: nn.Module, images: Tensor) -> dict[Slim, int]:
    """How many channels each layer that is run is given, at the present level.

    Args:
        network: with slim layers.
        images: [B, C, H, W].

    Raises:
        ValueError: if the network fails, or a layer is run several times, on different numbers of channels.
    """
    names = {module: name for name, module in network.named_modules()}
    found: dict[Slim, int] = {}

    def count(layer: Slim, inputs: tuple[Tensor]) -> None:
        channels = inputs[0].shape[layer.axis]
        if found.setdefault(layer, channels) != channels:
            raise ValueError(
                f"{names[layer]} is given {found[layer]} channels at one place and {channels} at another, where the "
                "network is narrower; use two layers"
            )

    with _watched(network, count):
        _run(network, images)
    return found


def check_channels(network: nn.Module, images: Tensor) -> None:
    """Refuse a network whose layers' first channels are made of others than the first channels of layers before.

    It runs at the present level, and again with zeros in place of the channels that are away. Concatenated, shuffled
    and averaged channels, and vectors of several positions with the channels of each together, are then others.

    Args:
        network: with slim layers, at a level below the full width.
        images: [B, C, H, W], not constant.

    Raises:
        ValueError: naming the layer that is given others, or if the network fails.
    """
    channels_given(network, images)
    names = {module: name for name, module in network.named_modules()}
    narrow: list[tuple[Slim, Tensor]] = []
    with _watched(network, lambda layer, inputs: narrow.append((layer, *inputs))):
        _run(network, images)
    runs = iter(narrow)

    def compare(layer: Slim, inputs: tuple[Tensor]) -> Tensor:
        _, given = next(runs)
        first = inputs[0].narrow(layer.axis, 0, given.shape[layer.axis])
        error = 1e-3 * float(given.abs().max())
        if first.shape != given.shape or not torch.allclose(first, given, rtol=0, atol=error):
            raise ValueError(
                f"{names[layer]} is not given the first of its channels where the network is narrower: before it they "
                "are concatenated, shuffled or averaged, or flattened with those of each position together, so that "
                "width cannot be compressed"
            )
        return first

    def widen(layer: Slim, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        away = list(output.shape)
        away[layer.axis] = layer.full - output.shape[layer.axis]
        return torch.cat([output, output.new_zeros(away)], layer.axis)

    with _watched(network, compare, widen):
        _run(network, images)


@contextmanager
def _watched(
    network: nn.Module, before: Callable[..., Any], after: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Call hooks of slim layers inside the block, before and after their forward passes."""
    layers = [module for module in network.modules() if isinstance(module, Slim)]
    hooks = [layer.register_forward_pre_hook(before) for layer in layers]
    hooks += [layer.register_forward_hook(after) for layer in layers if after is not None]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _run(network: nn.Module, images: Tensor) -> None:
    try:
        with evaluation_mode(network), torch.no_grad():
            network(images)
    except (TypeError, RuntimeError, IndexError) as error:
        channels, height, width = images.shape[1:]
        raise ValueError(f"the network fails on an image of {channels}x{height}x{width}: {error}") from error
