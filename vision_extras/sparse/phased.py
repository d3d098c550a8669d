# SPDX-License-Identifier: Apache-2.0
"""Training in sparse and dense phases: AC/DC, gradual pruning, and keeping to the zeros that are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hylora.training.moment import Moment
from hylora.training.optimizer import trainable
from vision_extras.copies import WeightCopies, learned
from vision_extras.masks import Masked, Masks, Scope, check_whole, gone, prunable
from vision_extras.pruning.timing import Epochs
from vision_extras.sparse.phases import Phase, last_dense
from vision_extras.sparse.recipe import SparseRecipe

__all__ = ["Phased", "check_network"]


def check_network(recipe: SparseRecipe, network: nn.Module) -> None:
    """Refuse a network whose weights cannot go as a recipe has it.

    Args:
        recipe: with a schedule.
        network: as training begins.

    Raises:
        ValueError: naming the field: no weight may go, a name in `keep` is unknown, a pattern divides no weight, or
            there are no zeros to keep to.
    """
    weights = prunable(network, recipe.keep)
    if not weights:
        raise ValueError(
            f"schedule={recipe.schedule!r} needs trained weights of more than one dimension, and the network has "
            "none; set it to none"
        )
    if recipe.schedule == "fixed":
        if not any((weight == 0).any() for weight in weights.values()):
            raise ValueError(
                "schedule='fixed' keeps to the zeros that the network begins with, and none of its trained weights is "
                "zero; begin with a sparse network, or set it to none"
            )
    elif isinstance(recipe.sparsity, str):
        gone({name: torch.empty_like(weight, device="meta") for name, weight in weights.items()}, recipe.sparsity)


class Phased(Masked):
    """Takes weights away when a sparse phase begins, and lets them return from zero when a dense one does (AC/DC).

    A sparse phase begins with one projection: the smallest weights become zero, and its mask holds to its end. Where a
    phase is sparse after a sparse one, what is gone stays gone. The optimizer and its schedule go on through all.

    Args:
        network: any module.
        masks: a part of the task's model. In a dense phase they are those of the sparse phase before.
        weights: gives those that may go, by name.
        phases: of the run, one after another.
        epochs: where they begin.
        scope: of a share that goes.
        fresh_momentum: whether the optimizer begins dense phases, but for the first, without what it has gathered.
        dense: a part of the task's model, for the weights with which the last of several dense phases ends, if a
            sparse one follows it; None to keep none.

    Attributes:
        phases: of the run.
        dense_outcome: the phase whose weights are kept, or None.
        history: of each phase that began its `first` epoch, `epochs` and `sparsity`, and what became of the weights:
            `mask_change`, the share of those kept that the mask before did not keep; when a dense phase has ended,
            `inactive`, the share that is zero; and at the end of each `pruned_filters`, the share of output channels
            with no weight left. None where there is no such thing.
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
        self.phases = tuple(phases)
        self.dense_outcome = None if dense is None else last_dense(self.phases)
        self.history: list[dict[str, Any]] = []
        self._network = network
        self._epochs = epochs
        self._scope = scope
        self._fresh = fresh_momentum
        self._dense = dense
        self._phase: Phase | None = None
        if self.phases[0].level is None:
            # Now, as a resumed run begins in the middle, where other weights may be zero.
            masks.remove({name: weight.detach() == 0 for name, weight in weights().items()})

    @property
    def masking(self) -> bool:
        return self._phase is not None and not self._phase.is_dense

    def begin(self, moment: Moment) -> bool:
        """Enter a phase with its first update. What is done twice comes to the same."""
        super().begin(moment)
        epoch = self._epochs.epoch(moment.step)
        self._phase = next(phase for phase in self.phases if phase.first <= epoch < phase.end)
        if self.dense_outcome is not None and epoch >= self.dense_outcome.first:
            self._dense.follow(learned(self._network))
        if self._enters(moment):
            self._enter(self._phase)
        return False

    def _enters(self, moment: Moment) -> bool:
        return moment.step == self._epochs.first_step(self._phase.first)

    def _leaves(self, moment: Moment) -> bool:
        return moment.step + 1 == self._epochs.first_step(self._phase.end)

    def _enter(self, phase: Phase) -> None:
        weights = self._weights()
        check_whole(weights, f"epoch {phase.first + 1} begins a phase of masks, which")
        change = self._project(phase, weights) if not phase.is_dense else None
        number = self.phases.index(phase)
        # An interrupted update begins twice, and the second time its mask would be compared with itself.
        if len(self.history) == number:
            known = any(not before.is_dense for before in self.phases[:number])
            self.history.append(
                {
                    "first": phase.first,
                    "epochs": phase.epochs,
                    "sparsity": self.sparsity,
                    "mask_change": change if known else None,
                    "inactive": None,
                    "pruned_filters": None,
                }
            )

    @torch.no_grad()
    def _project(self, phase: Phase, weights: Mapping[str, nn.Parameter]) -> float:
        """Set the smallest weights to zero; the share of those that stay which the mask before did not keep."""
        if phase.level is None:
            self._masks.apply(weights)
            return 0.0
        before = {name: self._masks[name].clone() for name in weights}
        scores = {name: weight.abs() for name, weight in weights.items()}
        if any(not earlier.is_dense and earlier.end == phase.first for earlier in self.phases):
            # What is gone goes first, also before weights that stayed and happen to be zero.
            scores = {name: score.masked_fill(~before[name], -1.0) for name, score in scores.items()}
        self._masks.restore()
        self._masks.remove(gone(scores, phase.level, self._scope))
        self._masks.apply(weights)
        new = sum(int((self._masks[name] & ~before[name]).sum()) for name in weights)
        return new / sum(int(self._masks[name].sum()) for name in weights)

    def forgotten(self, moment: Moment) -> Iterable[nn.Parameter]:
        """All parameters, when weights return."""
        returns = self._phase.is_dense and self._phase.first > 0 and self._enters(moment)
        return trainable(self._network).values() if returns and self._fresh else ()

    def end(self, moment: Moment) -> None:
        super().end(moment)
        if not self._leaves(moment):
            return
        weights = self._weights()
        found = self.history[-1]
        found["pruned_filters"] = _pruned_filters(weights)
        if self._phase.is_dense:
            zeros = sum(int((weight == 0).sum()) for weight in weights.values())
            found["inactive"] = zeros / sum(weight.numel() for weight in weights.values())
        if self._phase == self.dense_outcome:
            self._dense.take(learned(self._network))

    def scheduled(self, moment: Moment) -> dict[str, float]:
        """The share that is gone; when a phase begins what changed in the mask, and when it ends what has died."""
        found = self.history[-1]
        names = ["sparsity"]
        names += ["mask_change"] if self._enters(moment) else []
        names += ["inactive", "pruned_filters"] if self._leaves(moment) else []
        return {name: found[name] for name in names if found[name] is not None}

    def noteworthy(self, moment: Moment) -> bool:
        return self._enters(moment) or self._leaves(moment)

    def state(self) -> dict[str, Any]:
        """What became of the weights in each phase."""
        return {"history": [dict(found) for found in self.history]}

    def restore(self, state: dict[str, Any]) -> None:
        self.history = [dict(found) for found in state["history"]]


def _pruned_filters(weights: Mapping[str, Tensor]) -> float:
    """The share of output channels with no weight left."""
    empty = sum(int((weight.detach().flatten(1) == 0).all(1).sum()) for weight in weights.values())
    return empty / sum(len(weight) for weight in weights.values())
