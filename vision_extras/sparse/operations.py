# SPDX-License-Identifier: Apache-2.0
"""What training in phases takes, in operations of the weights that are not zero (A.2.3 of the sparse thesis).

A pass forward takes F operations with all weights, and a pass backward twice as many: for the gradients of what layers
were given, and for those of the weights. With weights gone all three shrink alike. In a dense phase the weights that
happen to be zero spare work in the first two, and each weight has its gradient nevertheless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from hylora.training.method import Method
from hylora.training.moment import Moment
from vision_extras.pruning.timing import Epochs
from vision_extras.sparse.phased import Phased
from vision_extras.sparse.phases import Phase

__all__ = ["Operations", "phase_operations", "present", "share_of_dense"]

# From an epoch and, for layers by name, the share of weights that are not zero, to the operations of its passes
# forward; None for those of a single sample at the end.
Forward = Callable[[int | None, Mapping[str, float]], int]


def phase_operations(dense: bool, forward: float, whole: float) -> float:
    """Operations of training.

    Args:
        dense: whether all weights are trained.
        forward: operations of the passes forward, of the weights that are not zero.
        whole: of all weights.
    """
    return 2 * forward + whole if dense else 3 * forward


def share_of_dense(phases: Iterable[Phase], sparse: float, dense: float = 1.0) -> float:
    """What training in phases takes, as a share of what it would if all were dense.

    Args:
        phases: of the run.
        sparse: the share of the operations of a pass forward that a sparse phase has.
        dense: that of a dense phase after the first sparse one, where weights happen to be zero.
    """
    taken, epochs, seen = 0.0, 0, False
    for phase in phases:
        seen |= not phase.is_dense
        forward = (dense if seen else 1.0) if phase.is_dense else sparse
        taken += phase.epochs * phase_operations(phase.is_dense, forward, 1.0)
        epochs += phase.epochs
    return taken / (3 * epochs)


def present(network: nn.Module) -> dict[str, float]:
    """For each layer with a matrix of weights, by name, the share of those that are not zero."""
    found = {
        name.removesuffix(".weight"): (weight != 0).float().mean()
        for name, weight in network.named_parameters()
        if weight.ndim > 1 and name.endswith(".weight")
    }
    return {name: float(share) for name, share in found.items()}


class Operations(Method):
    """Counts what training takes, epoch by epoch, by the weights that are not zero when an epoch ends.

    Of updates that take several gradients one is counted.

    Args:
        network: that is trained.
        phased: its phases; this method comes after them in the task's.
        epochs: where they begin.
        forward: counts passes forward.
    """

    name = "operations"

    def __init__(self, network: nn.Module, phased: Phased, epochs: Epochs, forward: Forward) -> None:
        self._network = network
        self._phased = phased
        self._epochs = epochs
        self._forward = forward
        self._training = 0
        self._dense_training = 0

    def end(self, moment: Moment) -> None:
        epoch = self._epochs.epoch(moment.step)
        if moment.step + 1 < self._epochs.first_step(epoch + 1):
            return
        whole = self._forward(epoch, {})
        forward = self._forward(epoch, present(self._network))
        self._training += phase_operations(not self._phased.masking, forward, whole)
        self._dense_training += phase_operations(True, whole, whole)

    def results(self) -> dict[str, int]:
        """Operations of `training` and of a sample's `inference`, and with `dense_` what a dense run would take."""
        return {
            "training": self._training,
            "dense_training": self._dense_training,
            "inference": self._forward(None, present(self._network)),
            "dense_inference": self._forward(None, {}),
        }

    def state(self) -> dict[str, Any]:
        """What the epochs so far took."""
        return {"training": self._training, "dense_training": self._dense_training}

    def restore(self, state: dict[str, Any]) -> None:
        self._training, self._dense_training = state["training"], state["dense_training"]
