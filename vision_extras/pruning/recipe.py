# SPDX-License-Identifier: Apache-2.0
"""When and what is pruned, and what is watched for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hylora.training.fields import check_choice, check_range
from vision_extras.masks import Scope
from vision_extras.pruning.detector import DetectorRecipe

__all__ = ["PruningRecipe", "SignalsRecipe"]


@dataclass(frozen=True, kw_only=True)
class PruningRecipe:
    """Which share of the weights goes, once and for good (chapter 2).

    Args:
        sparsity: the share of all weights of more than one dimension, in [0, 1); 0 for no pruning.
        at: after so many epochs, 0 for before training; `detect` for when the detector sees the signal turn, and after
            the last epoch if it does not.
        scope: whether the share is of all weights together, or of those of each tensor.
        criterion: weights go that are smallest, or whose Fisher information is.
        floor: learning rate that the pruned network starts from at least.
        detector: for `detect`.
    """

    sparsity: float = 0.0
    at: int | Literal["detect"] = 0
    scope: Scope = "global"
    criterion: Literal["magnitude", "fisher"] = "magnitude"
    floor: float = 0.001
    detector: DetectorRecipe = field(default_factory=DetectorRecipe)

    def __post_init__(self) -> None:
        check_range(self, "sparsity", least=0, below=1)
        check_choice(self, "scope", "criterion")
        check_range(self, "floor", least=0)
        if self.at != "detect":
            check_range(self, "at", least=0)


@dataclass(frozen=True, kw_only=True)
class SignalsRecipe:
    """What is measured of the network while it learns.

    Args:
        fisher: images of the training set, as they are, on which the trace of the Fisher information is estimated; 0
            for not at all.
        draws: labels drawn for each of them, at least 2.
        every: epochs from one estimate to the next.
        chunk: images whose gradients are in memory together, each with all its draws; 1 takes one after another, for
            networks that `torch.func.vmap` cannot trace.
        kl_uniform: whether the divergence from uniform predictions is measured in each update.
    """

    fisher: int = 0
    draws: int = 4
    every: int = 1
    chunk: int = 32
    kl_uniform: bool = False

    def __post_init__(self) -> None:
        check_range(self, "fisher", least=0)
        check_range(self, "draws", least=2)
        check_range(self, "every", "chunk", least=1)
