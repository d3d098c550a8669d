# SPDX-License-Identifier: Apache-2.0
"""Masks: which weights may go, which of them do, and how a mask is held in training and saved.

All that leaves weights away stands on this: pruning in the course of training, training that alternates between sparse
and dense, compression-aware updates, subspaces of sparsity, and pruning a trained network once.

A mask is made out of scores, one for each weight, mostly its magnitude (`gone`). It is held by `Masks`, whose buffers
are part of the model's state, and kept up in training by a `Masked` method. With a checkpoint the buffers are saved as
bits; a finished network needs none, as what is gone is zero: `vision_extras.models.packed` writes it small.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from hylora.training.method import Method
from hylora.training.moment import Moment
from hylora.training.optimizer import trainable
from hylora.training.recipe import RecipeError

__all__ = ["Masked", "Masks", "Scope", "check_level", "check_whole", "gone", "prunable", "smallest", "smallest_of"]

Scope = Literal["global", "local", "erk"]


def prunable(network: nn.Module, keep: Collection[str] = ()) -> dict[str, nn.Parameter]:
    """The weights that may go: trained parameters of more than one dimension, by name; tied ones once.

    Args:
        network: any module.
        keep: modules whose weights stay, by name; `first` and `last` are the first and the last that has any.

    Raises:
        ValueError: if a name is of no module with such weights, or nothing is left.
    """
    found = {name: parameter for name, parameter in trainable(network).items() if parameter.ndim > 1}
    if not keep:
        return found
    ends = {"first": next(iter(found), ""), "last": next(reversed(found), "")}
    kept = set()
    for module in keep:
        under = {ends[module]} if module in ends else {name for name in found if f"{name}.".startswith(f"{module}.")}
        if not under - {""}:
            raise ValueError(f"keep={module!r} must name a module that has weights of more than one dimension")
        kept |= under
    if not found.keys() - kept:
        raise ValueError(f"keep={[*keep]} leaves no weight that may go")
    return {name: parameter for name, parameter in found.items() if name not in kept}


def check_whole(weights: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights of which this process has a share: they cannot be ranked.

    Args:
        weights: by name.
        what: needs them.

    Raises:
        RecipeError: if they are sharded.
    """
    if any(isinstance(weight, DTensor) for weight in weights.values()):
        raise RecipeError(
            f"{what} needs whole weights, and these are sharded over processes; train with DDP or on one GPU"
        )


def check_level(level: float | str) -> None:
    """Refuse what is neither a share that may go nor a pattern of N:M.

    Raises:
        ValueError: naming it.
    """
    if isinstance(level, str):
        _pattern(level)
    elif not 0 <= level < 1:
        raise ValueError(f"sparsity={level!r} must be at least 0 and below 1, or a pattern such as '2:4'")


def gone(scores: Mapping[str, Tensor], level: float | str, scope: Scope = "global") -> dict[str, Tensor]:
    """Which weights go: those of the smallest scores.

    Args:
        scores: a score for each weight, by name of the tensor.
        level: a share of them, in [0, 1), see `smallest`; or a pattern "N:M", by which N of M weights go in each group
            that follow each other along the input channels. A tensor whose channels are no multiple of M stays whole.
        scope: of a share, as in `smallest`.

    Returns:
        For each tensor, a boolean one of its shape.

    Raises:
        ValueError: if there is no such level, or no tensor to which a pattern can be applied.
    """
    check_level(level)
    if not isinstance(level, str):
        return smallest(scores, level, scope)
    zeros, of = _pattern(level)
    if not any(score.shape[1] % of == 0 for score in scores.values()):
        raise ValueError(f"sparsity={level!r} divides the input channels of no weight; choose another pattern")
    return {name: _smallest_of_groups(score, zeros, of) for name, score in scores.items()}


def smallest(scores: Mapping[str, Tensor], sparsity: float, scope: Scope) -> dict[str, Tensor]:
    """Where the smallest scores are, as many as make up a share of all.

    Exactly `floor(sparsity * n)` of n are chosen, with the share taken as the decimal fraction that it reads as. Equal
    scores are chosen in the order of the tensors, and in a tensor from its first element on.

    Args:
        scores: a score for each weight, by name of the tensor.
        sparsity: the share, in [0, 1).
        scope: whether n counts the weights of all tensors together ("global"), or of each ("local"). With "erk"
            (Erdős–Rényi, with kernels) tensors of a shape have each their own share, such that what stays is
            proportional to the sum of the shape's numbers over their product, and never more than all; the shares are
            of all together.

    Returns:
        For each tensor, a boolean one of its shape.

    Raises:
        ValueError: if the sparsity is outside of [0, 1).
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity={sparsity!r} must be at least 0 and below 1")
    if scope == "global":
        chosen = smallest_of(torch.cat([score.flatten() for score in scores.values()]), sparsity)
        parts = chosen.split([score.numel() for score in scores.values()])
        return {name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)}
    shares = dict.fromkeys(scores, sparsity) if scope == "local" else _erdos_renyi(scores, sparsity)
    return {name: smallest_of(score.flatten(), shares[name]).view_as(score) for name, score in scores.items()}


def _erdos_renyi(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
    """For each tensor the share of its weights that goes."""
    raw = {name: sum(score.shape) / score.numel() for name, score in scores.items()}
    whole: set[str] = set()
    left = (1 - sparsity) * sum(score.numel() for score in scores.values())
    while True:
        others = [name for name in scores if name not in whole]
        budget = left - sum(scores[name].numel() for name in whole)
        factor = budget / sum(raw[name] * scores[name].numel() for name in others)
        # Those that would keep more than there is stay whole, and the rest shares what is left.
        if not (beyond := {name for name in others if factor * raw[name] > 1}):
            return {name: 0.0 if name in whole else 1 - factor * raw[name] for name in scores}
        whole |= beyond


# How many elements there are must be known, which no compiled graph does.
@torch.compiler.disable
def smallest_of(scores: Tensor, sparsity: float) -> Tensor:
    """Where the smallest of a list of scores [N] are, as a boolean tensor [N]; see `smallest`."""
    # In binary, 0.29 of 100 would be 28.
    count = math.floor(Fraction(str(sparsity)) * scores.numel())
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(count).values
    chosen = scores < threshold
    ties = (scores == threshold).nonzero()[: count - int(chosen.sum()), 0]
    chosen[ties] = True
    return chosen


def _pattern(level: str) -> tuple[int, int]:
    """How many of how many go."""
    found = re.fullmatch(r"(\d+):(\d+)", level)
    zeros, of = map(int, found.groups()) if found else (0, 0)
    if not 0 < zeros < of:
        raise ValueError(f"sparsity={level!r} must be a share below 1, or a pattern N:M with 0 < N < M such as '2:4'")
    return zeros, of


def _smallest_of_groups(scores: Tensor, zeros: int, of: int) -> Tensor:
    """Where the smallest of each group along the input channels are; of equal ones the first."""
    if scores.shape[1] % of:
        return torch.zeros_like(scores, dtype=torch.bool)
    # Input channels last, as kernels for such patterns have them.
    groups = scores.movedim(1, -1).unflatten(-1, (-1, of))
    ranks = groups.argsort(dim=-1, stable=True)[..., :zeros]
    chosen = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, ranks, True)
    return chosen.flatten(-2).movedim(-1, 1)


class Masks(nn.Module):
    """Which weights stay: for each named weight a boolean buffer of its shape, true where it stays.

    The buffers are part of the state of the model that holds this module, so that checkpoints have them.
    """

    def cover(self, weights: Mapping[str, Tensor]) -> None:
        """Give weights masks of their shapes. Where there was none, or none so large, everything stays that is new.

        A weight that grew is taken to hold its former values in its leading corner.

        Raises:
            ValueError: if a weight has fewer elements along a dimension than its mask.
        """
        for name, weight in weights.items():
            before = self._buffers.get(_key(name))
            if before is not None and before.shape == weight.shape:
                continue
            mask = torch.ones_like(weight, dtype=torch.bool)
            if before is not None:
                if any(old > new for old, new in zip(before.shape, weight.shape, strict=True)):
                    raise ValueError(
                        f"{name} has shape {tuple(weight.shape)}, and its mask {tuple(before.shape)}: a weight that "
                        "is pruned may grow, and not shrink"
                    )
                mask[tuple(map(slice, before.shape))] = before
            self.register_buffer(_key(name), mask)

    @torch.no_grad()
    def remove(self, chosen: Mapping[str, Tensor]) -> None:
        """Take weights away, in addition to those that are gone; `apply` then makes them zero.

        Args:
            chosen: true where a weight goes, by name; each is covered.
        """
        for name, away in chosen.items():
            self[name].logical_and_(~away)

    @torch.no_grad()
    def restore(self) -> None:
        """Let all weights stay."""
        for mask in self.buffers():
            mask.fill_(True)

    @torch.no_grad()
    def apply(self, tensors: Mapping[str, Tensor | None]) -> None:
        """Set to zero, in weights or their gradients, what does not stay. None is passed over."""
        for name, tensor in tensors.items():
            if tensor is not None:
                tensor.masked_fill_(~self[name], 0.0)

    def sparsity(self) -> float:
        """The share of all covered weights that is gone; 0 where none is covered."""
        masks = list(self.buffers())
        total = sum(mask.numel() for mask in masks)
        # One number comes off the device, not one for each mask: this is asked in every update.
        return 1 - int(sum(mask.sum() for mask in masks)) / total if total else 0.0

    def __getitem__(self, name: str) -> Tensor:
        """The mask of a weight."""
        return self._buffers[_key(name)]


def _key(name: str) -> str:
    """A weight's name as that of a buffer, in which torch allows no dots."""
    return name.replace(".", "/")


class Masked(Method):
    """Keeps what is gone at zero through training.

    Gradients of what is gone are zero too, so that momentum forgets them, they count nothing for the norm that
    gradients are clipped to, and sharpness-aware methods do not move them. Methods that take gradients elsewhere have
    to come after this one in the task's.

    Args:
        masks: a part of the task's model, so that checkpoints have them.
        weights: gives those that may go, by name; asked anew in each update, as networks may grow.
    """

    def __init__(self, masks: Masks, weights: Callable[[], Mapping[str, nn.Parameter]]) -> None:
        self._masks = masks
        self._weights = weights
        self._masks.cover(self._weights())

    @property
    def masking(self) -> bool:
        """Whether some weights are gone at present."""
        raise NotImplementedError

    @property
    def sparsity(self) -> float:
        """The share of the weights that is gone at present."""
        return self._masks.sparsity() if self.masking else 0.0

    def begin(self, moment: Moment) -> bool:
        self._masks.cover(self._weights())
        return False

    def gradients(self, accumulate: Callable[[], Tensor]) -> Tensor:
        loss_sum = accumulate()
        if self.masking:
            self._masks.apply({name: weight.grad for name, weight in self._weights().items()})
        return loss_sum

    def end(self, moment: Moment) -> None:
        if self.masking:
            self._masks.apply(self._weights())
