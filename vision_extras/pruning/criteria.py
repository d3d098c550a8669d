# SPDX-License-Identifier: Apache-2.0
"""How much a weight matters: the weights of the lowest scores are pruned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vision_extras.masks import prunable
from vision_extras.pruning.fisher import fisher_diagonal

__all__ = ["fisher", "magnitude"]


def magnitude(network: nn.Module) -> dict[str, Tensor]:
    """Scores of the prunable weights: their absolute values."""
    return {name: weight.detach().abs() for name, weight in prunable(network).items()}


def fisher(
    network: nn.Module, inputs: Tensor, draws: int, draw: torch.Generator, chunk: int = 32
) -> dict[str, Tensor]:
    """Scores of the prunable weights: the Fisher information of each (section 2.2.1.1).

    That is F_ii, as the thesis has it, and not F_ii * w_i^2, which tells what taking the weight away does to the
    predictions. Arguments are those of `vision_extras.pruning.fisher.fisher_diagonal`.
    """
    found = fisher_diagonal(network, inputs, draws, draw, chunk)
    return {name: found[name] for name in prunable(network)}
