# SPDX-License-Identifier: Apache-2.0
"""What the methods need to know of a language model's run: where its epochs begin, and which weights stay."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hylora.training.fields import check_range

__all__ = ["EvenEpochs", "embeddings"]


@dataclass(frozen=True)
class EvenEpochs:
    """Epochs of so many updates each, for runs that count updates only.

    Args:
        updates: in each of them.
    """

    updates: int

    def __post_init__(self) -> None:
        check_range(self, "updates", least=1)

    def epoch(self, step: int) -> int:
        """The epoch of an update, from 0."""
        return step // self.updates

    def first_step(self, epoch: int) -> int:
        """The first update of an epoch."""
        return epoch * self.updates


def embeddings(network: nn.Module) -> tuple[str, ...]:
    """The modules that hold a language model's embeddings and its head, for `keep`; tied ones by one name.

    They stay dense where the thesis on sparse networks prunes language models (sections 3.5.2 and 5.5).

    Args:
        network: a transformers causal language model.
    """
    ends = {id(network.get_input_embeddings().weight), id(network.get_output_embeddings().weight)}
    # Names without duplicates, as `vision_extras.masks.prunable` has them.
    return tuple(name.rpartition(".")[0] for name, parameter in network.named_parameters() if id(parameter) in ends)
