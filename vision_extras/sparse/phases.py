# SPDX-License-Identifier: Apache-2.0
"""The phases of sparse training, as a function of the recipe and of how many epochs there are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vision_extras.sparse.recipe import SparseRecipe

__all__ = ["Phase", "plan_phases"]


@dataclass(frozen=True)
class Phase:
    """Some epochs in which the same weights are gone, or none.

    Args:
        first: its first epoch, from 0.
        epochs: how many there are.
        level: what goes at its beginning, see `vision_extras.masks.gone`; 0 for a dense phase, and None for what is
            zero already.
    """

    first: int
    epochs: int
    level: float | str | None

    @property
    def is_dense(self) -> bool:
        """Whether all weights are trained."""
        return self.level == 0

    @property
    def end(self) -> int:
        """The first epoch after it."""
        return self.first + self.epochs


def plan_phases(recipe: SparseRecipe, epochs: int) -> tuple[Phase, ...]:
    """The phases of a run, one after another; none for a schedule of `none`.

    With the recipe's defaults, 100 epochs are those of the thesis for ImageNet: half of them sparse (section 3.4.1).

    Args:
        recipe: of the phases.
        epochs: of the run.

    Raises:
        ValueError: if the phases need more epochs than there are.
    """
    if recipe.schedule == "none":
        return ()
    if recipe.schedule == "fixed":
        return (Phase(0, epochs, None),)
    alternates = recipe.schedule == "alternating"
    fields = ("warmup", "last_dense", "last_sparse") if alternates else ("warmup", "last_sparse")
    needed = sum(getattr(recipe, name) for name in fields)
    if needed > epochs:
        raise ValueError(
            f"{' + '.join(f'{name}={getattr(recipe, name)}' for name in fields)} are {needed} epochs, and training has "
            f"{epochs}; make phases shorter, or train longer"
        )
    return _joined(_alternating(recipe, epochs) if alternates else _gradual(recipe, epochs))


def _alternating(recipe: SparseRecipe, epochs: int) -> Iterable[tuple[int, float | str]]:
    """How long phases are, and what goes (algorithm 1)."""
    yield recipe.warmup, 0
    left = epochs - recipe.warmup - recipe.last_dense - recipe.last_sparse
    sparse = True
    while left > 0:
        length = min(recipe.sparse if sparse else recipe.dense, left)
        yield length, recipe.sparsity if sparse else 0
        left -= length
        sparse = not sparse
    yield recipe.last_dense, 0
    yield recipe.last_sparse, 0 if recipe.finish == "dense" else recipe.sparsity


def _gradual(recipe: SparseRecipe, epochs: int) -> Iterable[tuple[int, float]]:
    """The cubic of Zhu and Gupta (2017), with a rise at the beginning of each phase."""
    yield recipe.warmup, 0
    last = epochs - recipe.last_sparse
    starts = [*range(recipe.warmup, last, recipe.sparse), last]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], epochs], strict=True), 1):
        yield end - start, round(recipe.sparsity * (1 - (1 - number / len(starts)) ** 3), 6)


def _joined(lengths: Iterable[tuple[int, float | str]]) -> tuple[Phase, ...]:
    """Phases without those of no length; two in a row of which the same goes are one."""
    phases: list[Phase] = []
    first = 0
    for length, level in lengths:
        if length and phases and phases[-1].level == level:
            phases[-1] = Phase(phases[-1].first, phases[-1].epochs + length, level)
        elif length:
            phases.append(Phase(first, length, level))
        first += length
    return tuple(phases)
