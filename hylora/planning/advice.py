# SPDX-License-Identifier: Apache-2.0
"""Which setting to change, and what it would save."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from hylora.planning.planner import Estimator, TrainingPlan, TrainingSetup
from hylora.training.recipe import RecipeError

__all__ = ["Advice", "advise"]


@dataclass(frozen=True)
class Advice:
    """One change of a setup.

    Args:
        change: the setting, as a recipe spells it where it is one of the recipe's.
        saves: bytes of each GPU.
        fits: whether the run would then fit.
    """

    change: str
    saves: int
    fits: bool


def advise(plan: TrainingPlan, progress: Callable[[str], None] = lambda step: None) -> list[Advice]:
    """Single changes that save memory, those that save most first; each is planned, none is guessed.

    Args:
        plan: of the setup as it is.
        progress: called with what is tried next, in words.
    """
    found = []
    for change, setup in _changes(plan.setup):
        progress(f"It does not fit. Trying {change}")
        try:
            total = Estimator(setup).total(setup.recipe.training.sequence_length)
        except RecipeError:
            continue
        saves = plan.memory.total - total
        if saves > plan.memory.total // 100:
            found.append(Advice(change, saves, total <= setup.hardware.usable))
    return sorted(found, key=lambda advice: -advice.saves)


def _changes(setup: TrainingSetup) -> Iterator[tuple[str, TrainingSetup]]:
    """Changes that may help, each with the setup it makes."""
    recipe = setup.recipe
    if not recipe.training.gradient_checkpointing:
        yield "training.gradient_checkpointing=true", _with(setup, "training", gradient_checkpointing=True)
    elif not recipe.training.offload:
        yield "training.offload=true", _with(setup, "training", offload=True)
    if setup.kernels == "torch":
        yield "install mamba-ssm and causal-conv1d (--kernels fused)", replace(setup, kernels="fused")
    if setup.mixed_precision == "no" and recipe.model.dtype != "float32":
        yield "training.mixed_precision=bf16", _with(setup, "training", mixed_precision="bf16")
    if recipe.training.batch_size > 1:
        yield "training.batch_size=1", _with(setup, "training", batch_size=1)
    if recipe.optimizer.name == "adamw":
        yield "optimizer.name=adamw_8bit", _with(setup, "optimizer", name="adamw_8bit")
    if recipe.adapter.variant == "none" and not recipe.model.from_scratch:
        yield "adapter.variant=hylora", _with(setup, "adapter", variant="hylora")
    if recipe.adapter.variant != "lora" and not recipe.model.from_scratch:
        yield "adapter.variant=lora (embeddings and norms stay frozen)", _with(setup, "adapter", variant="lora")
    if setup.hardware.gpus > 1 and setup.sharding not in ("fsdp", "zero3"):
        yield "shard weights, gradients and optimizer state (FSDP)", replace(setup, sharding="fsdp")
    length = recipe.training.sequence_length
    yield f"training.sequence_length={length // 2}", _with(setup, "training", sequence_length=length // 2)


def _with(setup: TrainingSetup, section: str, **changes: Any) -> TrainingSetup:
    """A setup with other values in one section of its recipe."""
    recipe = setup.recipe
    return replace(setup, recipe=replace(recipe, **{section: replace(getattr(recipe, section), **changes)}))
