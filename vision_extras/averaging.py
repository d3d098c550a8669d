# SPDX-License-Identifier: Apache-2.0
"""A moving average of a network's weights, kept beside them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hylora.training.fields import check_range
from hylora.training.method import Method
from hylora.training.moment import Moment
from vision_extras.copies import WeightCopies, learned
from vision_extras.subspaces.quantizer import InputQuantizer

__all__ = ["AverageRecipe", "WeightAverage"]


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

    def __init__(self, network: nn.Module, averages: WeightCopies, decay: float) -> None:
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

    def applied(self) -> AbstractContextManager[None]:
        """Inside the block the network has the averages for weights; after it, what it had, bit for bit."""
        return self._averages.applied(self._weights())

    def _weights(self) -> dict[str, Tensor]:
        """What is averaged."""
        moving = {
            f"{name}.ranges" for name, module in self._network.named_modules() if isinstance(module, InputQuantizer)
        }
        return {name: value for name, value in learned(self._network).items() if name not in moving}
