# SPDX-License-Identifier: Apache-2.0
"""Training whose weights are gone in some phases and back in others (AC/DC, gradual pruning, fixed masks)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hylora.training.moment import Moment
from vision_extras.copies import WeightCopies, learned
from vision_extras.masks import Masked, Masks, Scope, gone
from vision_extras.pruning.timing import Epochs
from vision_extras.sparse.phases import Phase

__all__ = ["Phased"]


class Phased(Masked):
    """Takes weights away when a sparse phase begins, and gives them back when a dense one does (algorithm 1).

    A sparse phase begins with one projection: the smallest weights become zero, and the mask holds through the phase.
    In a dense phase they are trained again, from zero. The loop's optimizer and schedule go on through all phases.
    Where a phase is sparse after a sparse one, what is gone stays gone.

    Args:
        network: any module.
        masks: a part of the task's model. In a dense phase they are those of the sparse phase before.
        weights: gives those that may go, by name.
        phases: of the run, one after another.
        epochs: where they begin.
        scope: of a share that goes.
        fresh_momentum: whether the optimizer begins dense phases, but for the first, without what it has gathered.
        dense: a part of the task's model, which takes the weights as they are when the last dense phase ends before a
            sparse one; None for none of them.
    """

    name = "phases"

    def __init__(
        self,
        network: nn.Module,
        masks: Masks,
        weights: Callable[[], Mapping[str, nn.Parameter]],
        phases: Sequence[Phase],
        epochs: Epochs,
        scope: Scope = "global",
        fresh_momentum: bool = True,
        dense: WeightCopies | None = None,
    ) -> None:
        super().__init__(masks, weights)
        self._network = network
        self._phases = phases
        self._epochs = epochs
        self._scope = scope
        self._fresh = fresh_momentum
        self._dense = dense
        self._number = -1
        self.history: list[dict[str, Any]] = []
        if dense is not None:
            dense.follow(learned(network))

    @property
    def masking(self) -> bool:
        return self._number >= 0 and not self._phases[self._number].is_dense

    def begin(self, moment: Moment) -> bool:
        super().begin(moment)
        number = self._number_at(moment)
        # May be called twice at a moment, and the weights of the second time are projected already.
        if number != self._number:
            self._enter(number)
        return False

    def _number_at(self, moment: Moment) -> int:
        epoch = self._epochs.epoch(moment.step)
        return next(number for number, phase in enumerate(self._phases) if epoch < phase.end)

    def _enter(self, number: int) -> None:
        phase, weights = self._phases[number], self._weights()
        record = {"first": phase.first, "epochs": phase.epochs, "sparsity": 0.0}
        if not phase.is_dense:
            self.check_whole(weights)
            if (
                self._dense is not None
                and not any(later.is_dense for later in self._phases[number:])
                and (number == 0 or self._phases[number - 1].is_dense)
            ):
                self._dense.take(learned(self._network))
            record |= self._project(phase, weights, accumulates=number > 0 and self.masking)
        self._number = number
        self.history.append(record)

    def _project(self, phase: Phase, weights: Mapping[str, nn.Parameter], accumulates: bool) -> dict[str, float]:
        """Take weights away; gives what there is to say about it."""
        found = {} if accumulates or phase.level is None else {"inactive": _zeros(weights)}
        # An earlier mask is one of a sparse phase that is on record.
        earlier = any(record["sparsity"] for record in self.history)
        before = {name: self._masks[name].clone() for name in weights}
        if phase.level is None:
            chosen = {name: weight.detach() == 0 for name, weight in weights.items()}
        else:
            chosen = gone({name: weight.detach().abs() for name, weight in weights.items()}, phase.level, self._scope)
        if not accumulates:
            self._masks.restore()
        self._masks.remove(chosen)
        self._masks.apply(weights)
        if earlier:
            found["mask_change"] = _newly_kept(before, {name: self._masks[name] for name in weights})
        return found | {"sparsity": self._masks.sparsity(), "pruned_filters": _pruned_filters(weights)}

    def forgotten(self, moment: Moment) -> Iterable[nn.Parameter]:
        """All parameters, in the first update of a dense phase that follows a sparse one."""
        number = self._number_at(moment)
        phase = self._phases[number]
        begins = moment.step == self._epochs.first_step(phase.first)
        return self._network.parameters() if self._fresh and number and phase.is_dense and begins else ()

    def scheduled(self, moment: Moment) -> dict[str, float]:
        """The share of the weights that is gone; in the first update of a sparse phase also what changed."""
        found = {"sparsity": self._masks.sparsity() if self.masking else 0.0}
        return found | self._news(moment)

    def noteworthy(self, moment: Moment) -> bool:
        return bool(self._news(moment))

    def _news(self, moment: Moment) -> dict[str, float]:
        phase = self._phases[self._number]
        if phase.is_dense or moment.step != self._epochs.first_step(phase.first):
            return {}
        return {name: value for name, value in self.history[-1].items() if name not in ("first", "epochs")}

    def state(self) -> dict[str, Any]:
        """Which phase training is in, and what was measured when phases began."""
        return {"number": self._number, "history": self.history}

    def restore(self, state: dict[str, Any]) -> None:
        self._number, self.history = state["number"], list(state["history"])


@torch.no_grad()
def _zeros(weights: Mapping[str, Tensor]) -> float:
    """The share of weights that are zero."""
    zeros = sum((weight == 0).sum() for weight in weights.values())
    return int(zeros) / sum(weight.numel() for weight in weights.values())


def _newly_kept(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """The share of what a mask keeps that the one before did not."""
    kept = sum(mask.sum() for mask in after.values())
    new = sum((after[name] & ~mask).sum() for name, mask in before.items())
    return int(new) / max(int(kept), 1)


@torch.no_grad()
def _pruned_filters(weights: Mapping[str, Tensor]) -> float:
    """The share of output channels of which nothing is left."""
    outputs = [(weight == 0).flatten(1).all(1) for weight in weights.values()]
    return int(sum(whole.sum() for whole in outputs)) / sum(len(whole) for whole in outputs)
