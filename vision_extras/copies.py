# SPDX-License-Identifier: Apache-2.0
"""Copies of a network's weights that are kept beside them: a moving average, or what was at some moment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hylora.training.state import changing
from vision_extras.models.weights import write_weights

__all__ = ["WeightCopies", "learned", "restored", "write_copies"]


def learned(network: nn.Module) -> dict[str, Tensor]:
    """What training changes in a network, by name: parameters and statistics, and not counters."""
    return {name: value for name, value in changing(network).items() if value.is_floating_point()}


class WeightCopies(nn.Module):
    """For each weight of a network a buffer with its copy, in the state of the model that holds this module."""

    def follow(self, weights: Mapping[str, Tensor]) -> None:
        """Begin a copy of each weight that has none, at the weight.

        That of a weight which grew has its former values in the leading corner, as the weight has, and the weight's
        elsewhere. That of a weight which is gone is dropped.
        """
        wanted = {_key(name): weight.detach() for name, weight in weights.items()}
        for gone in self._buffers.keys() - wanted.keys():
            del self._buffers[gone]
        for key, weight in wanted.items():
            before = self._buffers.get(key)
            if before is None or before.shape != weight.shape:
                grown = weight.clone()
                if before is not None:
                    grown[tuple(map(slice, before.shape))] = before
                self.register_buffer(key, grown)

    def __getitem__(self, name: str) -> Tensor:
        """The copy of a weight."""
        return self._buffers[_key(name)]

    @torch.no_grad()
    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Make the copies of weights, which have some, what these are now."""
        for name, weight in weights.items():
            self[name].copy_(weight)

    @contextlib.contextmanager
    def applied(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside the block weights have the values of their copies; after it, what they had, bit for bit."""
        with restored(weights):
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(self[name])
            yield


@contextlib.contextmanager
def restored(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the block tensors may be changed in place; after it they have what they had before, bit for bit."""
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(before[name])


def write_copies(path: Path, state: Mapping[str, Tensor], copies: str) -> None:
    """Write the weights of a network with its copies in their place; `vision_extras.models.load_network` reads them.

    Args:
        path: of the file, in the folder of the network.
        state: of a model that holds the network as `network`.
        copies: what the model holds the copies as.
    """
    names = [name.removeprefix("network.") for name in state if name.startswith("network.")]
    write_weights(path, {name: state.get(f"{copies}.{_key(name)}", state[f"network.{name}"]) for name in names})


def _key(name: str) -> str:
    """A weight's name as that of a buffer, in which torch allows no dots."""
    return name.replace(".", "/")
