# SPDX-License-Identifier: Apache-2.0
"""A moving average of a network's weights, kept beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hylora.training.fields import check_range
from hylora.training.method import Method
from hylora.training.moment import Moment
from hylora.training.state import changing
from vision_extras.subspaces.quantizer import InputQuantizer

__all__ = ["AverageRecipe", "Averages", "WeightAverage", "write_average"]


@dataclass(frozen=True, kw_only=True)
class AverageRecipe:
    """An exponential moving average of the weights, which is evaluated and saved beside them.

    Chapter 4's recipes take a decay of 0.9995, and its results are those of the weights themselves (4.6.1).

    Args:
        decay: the share of the average that stays in each update, in [0, 1); 0 for no average.
    """

    decay: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "decay", least=0, below=1)


class Averages(nn.Module):
    """For each weight of a network a buffer with its average, in the state of the model that holds this module."""

    def follow(self, weights: Mapping[str, Tensor]) -> None:
        """Begin an average for each weight that has none, at the weight.

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
        """The average of a weight."""
        return self._buffers[_key(name)]


def write_average(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write the weights of the averaged network as `average.safetensors`; `load_state_dict` takes them.

    Args:
        folder: to write into.
        state: of a model that holds the network as `network` and the averages as `averages`.
    """
    names = [name.removeprefix("network.") for name in state if name.startswith("network.")]
    averaged = {name: state.get(f"averages.{_key(name)}", state[f"network.{name}"]) for name in names}
    # Of its own memory each: safetensors refuses tensors that share some.
    averaged = {name: value.detach().cpu().contiguous().clone() for name, value in averaged.items()}
    save_file(averaged, folder / "average.safetensors", metadata={"format": "pt"})


def _key(name: str) -> str:
    """A weight's name as that of a buffer, in which torch allows no dots."""
    return name.replace(".", "/")


class WeightAverage(Method):
    """Moves averages towards the weights after each update: decay * average + (1 - decay) * weight.

    Batch statistics are averaged as weights are; ranges of quantisers are not, which are moving averages already. A
    weight that is exactly 0 is taken to be pruned, and so is its average. Where others change the network's structure,
    this method comes after them.

    Args:
        network: whose weights are averaged.
        averages: where the averages are kept.
        decay: the share that stays, in (0, 1).
    """

    def __init__(self, network: nn.Module, averages: Averages, decay: float) -> None:
        self._network = network
        self._averages = averages
        self._decay = decay

    def begin(self, moment: Moment) -> bool:
        """Follow the network where it changed."""
        self._averages.follow(self._weights())
        return False

    @torch.no_grad()
    def end(self, moment: Moment) -> None:
        """Move the averages."""
        trained = dict(self._network.named_parameters())
        for name, weight in self._weights().items():
            average = self._averages[name].lerp_(weight, 1 - self._decay)
            if name in trained:
                average.masked_fill_(weight == 0, 0)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the network has the averages for weights; after it, what it had, bit for bit."""
        weights = self._weights()
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(self._averages[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(before[name])

    def _weights(self) -> dict[str, Tensor]:
        """What is averaged: numbers that training changes, and not counters."""
        moving = {
            f"{name}.ranges" for name, module in self._network.named_modules() if isinstance(module, InputQuantizer)
        }
        found = changing(self._network).items()
        return {name: value for name, value in found if value.is_floating_point() and name not in moving}
