# SPDX-License-Identifier: Apache-2.0
"""Training a subspace: each update sees the network at one or several of its levels (algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hylora.training.method import Method
from hylora.training.moment import Moment
from vision_extras.subspaces.curriculum import Curriculum
from vision_extras.subspaces.subspace import CompressibleSubspace

__all__ = ["SubspaceTraining"]


class SubspaceTraining(Method):
    """Moves a subspace before each pass of an update. The losses of several levels are summed.

    Args:
        subspace: a part of the task's model.
        curriculum: says where to.
    """

    def __init__(self, subspace: CompressibleSubspace, curriculum: Curriculum) -> None:
        self._subspace = subspace
        self._curriculum = curriculum

    def begin(self, moment: Moment) -> bool:
        self._draws = self._curriculum.draws(moment)
        self._subspace.move(*self._draws[0])
        self._subspace.position.activations = self._curriculum.quantises_activations(moment)
        return False

    def gradients(self, accumulate: Callable[[], Tensor]) -> Tensor:
        """Those of the summed loss; what is reported is the mean, so that runs can be compared."""
        losses = []
        for draw in self._draws:
            self._subspace.move(*draw)
            losses.append(accumulate())
        return torch.stack(losses).mean()

    def scheduled(self, moment: Moment) -> dict[str, float]:
        """Point and level, the mean of them where there are several."""
        alphas, levels = zip(*self._draws, strict=True)
        return {"alpha": sum(alphas) / len(alphas), "level": sum(levels) / len(levels)}
