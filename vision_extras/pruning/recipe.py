# SPDX-License-Identifier: Apache-2.0
"""When and what is pruned, and what is watched for it."""

from __future__ import annotations

from dataclasses import dataclass

from hylora.training.fields import check_range

__all__ = ["PruningRecipe", "SignalsRecipe"]


@dataclass(frozen=True, kw_only=True)
class PruningRecipe:
    """Which share of the weights goes, once and for good (chapter 2).

    Args:
        sparsity: the share, in [0, 1); 0 for no pruning.
        epoch: after so many epochs.
    """

    sparsity: float = 0.0
    epoch: int = 0

    def __post_init__(self) -> None:
        check_range(self, "sparsity", least=0, below=1)
        check_range(self, "epoch", least=0)


@dataclass(frozen=True, kw_only=True)
class SignalsRecipe:
    """What is measured of the network while it learns.

    Args:
        fisher: images of the training set on which the trace of the Fisher information is estimated after each epoch;
            0 for not at all.
    """

    fisher: int = 0

    def __post_init__(self) -> None:
        check_range(self, "fisher", least=0)
