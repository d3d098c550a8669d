# SPDX-License-Identifier: Apache-2.0
"""Updates by gradients at compressed weights (CrAM and its relatives; chapter 5 of the thesis on sparse networks)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hylora.training.method import Method
from hylora.training.moment import Moment
from hylora.training.optimizer import trainable
from vision_extras.batch_norms import held_statistics
from vision_extras.copies import restored
from vision_extras.masks import Masks, check_whole, gone
from vision_extras.sharpness import ascend, ascend_by_length
from vision_extras.sparse.compression import compress, share_range
from vision_extras.sparse.recipe import CramRecipe

__all__ = ["CompressionAware"]


class CompressionAware(Method):
    """Takes each update's gradients where the weights are compressed, so that they stand it (algorithm 2).

    All passes see the same batch. With several processes they are at the same point, as gradients are summed over
    processes and levels are drawn alike. The weights are put back bit for bit before the optimizer's step. Batch
    statistics are those of the first pass: at the weights themselves, where there is such a pass.

    Args:
        network: any module.
        weights: gives those that are compressed, by name; all that are trained move up the gradient.
        recipe: of the updates.
        masks: a part of the task's model, which holds the masks of levels where they are kept for several updates.
    """

    name = "cram"

    def __init__(
        self,
        network: nn.Module,
        weights: Callable[[], Mapping[str, nn.Parameter]],
        recipe: CramRecipe,
        masks: nn.ModuleDict,
    ) -> None:
        self._network = network
        self._weights = weights
        self._recipe = recipe
        self._masks = masks
        # How often each level has been drawn.
        self._uses = {str(level): 0 for level in recipe.levels} if recipe.mask_every > 1 else {}
        self._cover()

    def _cover(self) -> None:
        for level in self._uses:
            if _key(level) not in self._masks:
                self._masks[_key(level)] = Masks()
            self._masks[_key(level)].cover(self._weights())

    def begin(self, moment: Moment) -> bool:
        """Draw whether the update is an ordinary one, and the level if it is not."""
        draw, levels = moment.generator("cram"), self._recipe.levels
        self._plain = float(torch.rand((), generator=draw)) < self._recipe.plain
        self._level = levels[int(torch.randint(len(levels), (), generator=draw))]
        if (shares := share_range(self._level)) is not None:
            low, high = shares
            self._level = round(low + (high - low) * float(torch.rand((), generator=draw)), 6)
        check_whole(self._weights(), f"cram.update={self._recipe.update!r}")
        self._cover()
        return False

    def gradients(self, accumulate: Callable[[], Tensor]) -> Tensor:
        """Those of the compressed weights, and with `plus` the weights' own; the loss is that of the first pass."""
        if self._plain:
            return accumulate()
        recipe, trained = self._recipe, trainable(self._network)
        parameters = [*trained.values()]
        loss_sum, own = None, []
        if recipe.update == "cram" or recipe.plus:
            loss_sum = accumulate()
            own = [parameter.grad for parameter in parameters]
        elif recipe.update == "csam":
            with restored(trained):
                loss_sum = self._at_compressed(accumulate)
        with restored(trained):
            if recipe.update == "cram":
                ascend(parameters, recipe.radius)
            elif recipe.update == "csam":
                ascend_by_length(parameters, recipe.radius)
            for parameter in parameters:
                parameter.grad = None
            # A network that never runs but compressed has the statistics of that.
            first = loss_sum is None
            with contextlib.nullcontext() if first else held_statistics(self._network):
                compressed = self._at_compressed(accumulate)
        if recipe.plus:
            for parameter, gradient in zip(parameters, own, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return compressed if first else loss_sum

    def _at_compressed(self, accumulate: Callable[[], Tensor]) -> Tensor:
        """Compress the weights where they are, and leave the gradients there."""
        weights = self._weights()
        chosen = self._compress(weights)
        loss_sum = accumulate()
        if self._recipe.masked and chosen is not None:
            for name, away in chosen.items():
                if weights[name].grad is not None:
                    weights[name].grad.masked_fill_(away, 0.0)
        return loss_sum

    def _compress(self, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor] | None:
        level, every = str(self._level), self._recipe.mask_every
        if every == 1:
            return compress(weights, self._level, self._recipe.scope)
        masks = self._masks[_key(level)]
        if self._uses[level] % every == 0:
            scores = {name: weight.detach().abs() for name, weight in weights.items()}
            masks.restore()
            masks.remove(gone(scores, self._level, self._recipe.scope))
        masks.apply(weights)
        return {name: ~masks[name] for name in weights}

    def end(self, moment: Moment) -> None:
        if self._uses and not self._plain:
            self._uses[str(self._level)] += 1

    def state(self) -> dict[str, Any] | None:
        """How often each level has been drawn, where masks are kept."""
        return {"uses": dict(self._uses)} if self._uses else None

    def restore(self, state: dict[str, Any]) -> None:
        self._uses = dict(state["uses"])


def _key(level: str) -> str:
    """A level as the name of a module, in which torch allows no dots."""
    return level.replace(".", "/")
