# SPDX-License-Identifier: Apache-2.0
"""Statistics of batch norms at levels they do not belong to: how wrong they are, anew, and stored (section 3.2.5)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vision_extras.batch_norms import batch_norms

__all__ = ["Drift", "batch_norm_drift", "statistics_size"]


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
    names = {layer: name for name, layer in batch_norms(network)}

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


def statistics_size(network: nn.Module, levels: int) -> int:
    """Bytes of one more set of a network's means and variances for each of some levels (figure 3.1).

    Args:
        network: any module; on the meta device too.
        levels: how many.
    """
    tensors = (tensor for _, layer in batch_norms(network) for tensor in (layer.running_mean, layer.running_var))
    return levels * sum(tensor.nbytes for tensor in tensors)
