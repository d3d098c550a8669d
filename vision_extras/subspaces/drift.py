# SPDX-License-Identifier: Apache-2.0
"""Statistics of batch norms at levels they do not belong to: how wrong they are, anew, and stored (section 3.2.5)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hylora.training.evaluation import evaluation_mode

__all__ = ["Drift", "batch_norm_drift", "recalibrate", "statistics_size"]


class Drift:
    """What was seen of the batch norms of a network, while `batch_norm_drift` watched it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._batches: dict[str, int] = {}

    def add(self, name: str, difference: Tensor) -> None:
        """Count a batch.

        Args:
            name: of a layer.
            difference: mean absolute difference of its stored means from those of the batch, a number.
        """
        self._sums[name] = self._sums.get(name, 0.0) + difference
        self._batches[name] = self._batches.get(name, 0) + 1

    def by_layer(self) -> dict[str, float]:
        """The mean absolute difference of each layer's stored means from those of a batch, averaged over batches.

        In the order in which layers were run (rows c and d of figure 3.4); empty where there were none.
        """
        return {name: float(total) / self._batches[name] for name, total in self._sums.items()}


@contextmanager
def batch_norm_drift(network: nn.Module) -> Iterator[Drift]:
    """Inside the block, watch how far the stored means of a network's batch norms are from those of batches.

    Passes in training mode do not count: they normalise by the batch. With several processes, those of this one count.

    Args:
        network: any module, at the level in question.
    """
    found = Drift()
    names = {layer: name for name, layer in _batch_norms(network)}

    def compare(layer: _BatchNorm, inputs: tuple[Tensor]) -> None:
        if layer.training:
            return
        with torch.no_grad():
            (x,) = inputs
            mean = x.float().mean([axis for axis in range(x.ndim) if axis != 1])
            # A narrow layer uses the first of its statistics.
            found.add(names[layer], (layer.running_mean[: len(mean)] - mean).abs().mean())

    hooks = [layer.register_forward_pre_hook(compare) for layer in names]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


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
    layers = [layer for _, layer in _batch_norms(network)]
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


def statistics_size(network: nn.Module, levels: int) -> int:
    """Bytes of one more set of a network's means and variances for each of some levels (figure 3.1).

    Args:
        network: any module; on the meta device too.
        levels: how many.
    """
    tensors = (tensor for _, layer in _batch_norms(network) for tensor in (layer.running_mean, layer.running_var))
    return levels * sum(tensor.nbytes for tensor in tensors)


def _batch_norms(network: nn.Module) -> list[tuple[str, _BatchNorm]]:
    """Those that have statistics."""
    return [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
