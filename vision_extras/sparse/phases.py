# SPDX-License-Identifier: Apache-2.0
"""In which epochs a run is sparse, and how much so (sections 3.3 and 3.4 of the thesis on sparse networks)."""

from __future__ import annotations

from dataclasses import dataclass

from vision_extras.sparse.recipe import SparseRecipe

__all__ = ["Phase", "last_dense", "plan_phases"]


@dataclass(frozen=True)
class Phase:
    """Some epochs of one kind.

    Args:
        first: its first epoch, from 0.
        epochs: how many it has.
        level: what goes when it begins, see `vision_extras.masks.gone`; 0 in a dense phase, and None where the zeros
            of the network itself stay.
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
        """The epoch after its last."""
        return self.first + self.epochs


def plan_phases(recipe: SparseRecipe, epochs: int) -> tuple[Phase, ...]:
    """The phases of a run, one after another from its first epoch to its last.

    With the recipe's defaults, 100 epochs are those of the thesis for ImageNet: half of them sparse (section 3.4.1).

    Args:
        recipe: of the phases; a schedule of `none` has one dense phase.
        epochs: of the run.

    Raises:
        ValueError: if they do not fit into the run, or the schedule cannot have what the recipe says.
    """
    if recipe.schedule == "none":
        return (Phase(0, epochs, 0.0),)
    if recipe.schedule == "fixed":
        _refuse_finish(recipe)
        return (Phase(0, epochs, None),)
    if recipe.sparsity == 0:
        raise ValueError(f"sparsity={recipe.sparsity} leaves nothing away; set it above 0, or schedule to none")
    return _alternating(recipe, epochs) if recipe.schedule == "alternating" else _gradual(recipe, epochs)


def last_dense(phases: tuple[Phase, ...]) -> Phase | None:
    """The dense phase whose end is the dense outcome of a run: the last of several, if a sparse one follows it."""
    found = [phase for phase in phases if phase.is_dense]
    return found[-1] if len(found) > 1 and not phases[-1].is_dense else None


def _alternating(recipe: SparseRecipe, epochs: int) -> tuple[Phase, ...]:
    """AC/DC. Epochs left over belong to the last phase, as a long one serves the sparse network (section 3.5.1)."""
    if not recipe.last_dense:
        raise ValueError(
            "last_dense=0 leaves no dense phase before the last sparse one; set it to 1 or more, or choose "
            "schedule=gradual"
        )
    _check_room(recipe, epochs, "warmup", "sparse", "last_dense", "last_sparse")
    until = epochs - recipe.last_dense - recipe.last_sparse
    lengths, level = [(recipe.warmup, 0.0), (recipe.sparse, recipe.sparsity)], recipe.sparsity
    start = recipe.warmup + recipe.sparse
    while (start := start + recipe.dense + recipe.sparse) <= until:
        lengths += [(recipe.dense, 0.0), (recipe.sparse, level)]
    last = epochs - sum(length for length, _ in lengths) - recipe.last_dense
    if recipe.finish == "dense":
        lengths.append((recipe.last_dense + last, 0.0))
    else:
        lengths += [(recipe.last_dense, 0.0), (last, level)]
    return _in_turn(lengths)


def _gradual(recipe: SparseRecipe, epochs: int) -> tuple[Phase, ...]:
    """Sparsity rises every few epochs as s (1 - (1 - t)^3) (Zhu and Gupta), from 0 one rise before the first."""
    _refuse_finish(recipe)
    if isinstance(recipe.sparsity, str):
        raise ValueError(
            f"sparsity={recipe.sparsity!r} cannot rise, and schedule='gradual' has it rise; choose a share such as "
            "0.5, or schedule=alternating"
        )
    _check_room(recipe, epochs, "warmup", "last_sparse")
    full = epochs - recipe.last_sparse
    zero = recipe.warmup - recipe.sparse
    rises = [*range(recipe.warmup, full, recipe.sparse), full]
    lengths = [(recipe.warmup, 0.0)]
    for rise, following in zip(rises, [*rises[1:], epochs], strict=True):
        left = (full - rise) / (full - zero)
        lengths.append((following - rise, round(recipe.sparsity * (1 - left**3), 6)))
    return _in_turn(lengths)


def _in_turn(lengths: list[tuple[int, float | str]]) -> tuple[Phase, ...]:
    phases, first = [], 0
    for length, level in lengths:
        if length:
            phases.append(Phase(first, length, level))
        first += length
    return tuple(phases)


def _check_room(recipe: SparseRecipe, epochs: int, *fields: str) -> None:
    needed = sum(getattr(recipe, field) for field in fields)
    if needed > epochs:
        values = ", ".join(f"{field}={getattr(recipe, field)}" for field in fields)
        raise ValueError(
            f"{values} come to {needed} epochs, and training has {epochs}; shorten them, or train for {needed} or more"
        )


def _refuse_finish(recipe: SparseRecipe) -> None:
    if recipe.finish == "dense":
        raise ValueError(
            f"finish='dense' trains the dense network that schedule='alternating' leaves, and schedule="
            f"{recipe.schedule!r} leaves none; set finish to sparse"
        )
