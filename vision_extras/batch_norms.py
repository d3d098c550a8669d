# SPDX-License-Identifier: Apache-2.0
"""The running statistics of batch norms: taken anew for changed weights, and held where passes must not count."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hylora.training.evaluation import evaluation_mode

__all__ = ["batch_norms", "held_statistics", "recalibrate"]


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the statistics of a network's batch norms by the averages of what batches have, in place.

    They belong to the present level afterwards, and where it is a width, channels that it does not use have none. All
    else of the network is in evaluation mode meanwhile.

    Args:
        network: any module, at the level in question.
        batches: of images, [B, C, H, W] each; each counts the same.

    Raises:
        ValueError: if there are no batches; then nothing has changed.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise ValueError("batches are empty, and would leave batch norms without statistics; give one at least")
    layers = [layer for _, layer in batch_norms(network)]
    momenta = [layer.momentum for layer in layers]
    with evaluation_mode(network):
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        try:
            for images in itertools.chain([first], batches):
                network(images)
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum


@contextmanager
def held_statistics(network: nn.Module) -> Iterator[None]:
    """Inside the block, passes in training mode normalise by the batch, and leave what runs along as it was.

    Args:
        network: any module.
    """
    layers = [layer for _, layer in batch_norms(network)]
    before = [layer.track_running_stats for layer in layers]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer, tracked in zip(layers, before, strict=True):
            layer.track_running_stats = tracked


def batch_norms(network: nn.Module) -> list[tuple[str, _BatchNorm]]:
    """Those that have statistics."""
    return [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
