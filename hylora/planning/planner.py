# SPDX-License-Identifier: Apache-2.0
"""Plan a training run: what it takes, whether it fits, and how long a context would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from hylora.language.head import decoder_and_head
from hylora.language.model import plan_model
from hylora.language.recipe import LanguageRecipe
from hylora.planning.compute import ComputeEstimate, estimate_compute
from hylora.planning.context import longest_context, longest_tried
from hylora.planning.hardware import Hardware
from hylora.planning.memory import MemoryEstimate, Sharding, check_sharding, estimate_memory
from hylora.planning.parameters import GroupParameters, count_parameters
from hylora.planning.simulation import Simulation, StepProfile

__all__ = ["KERNELS", "Estimator", "TrainingPlan", "TrainingSetup", "plan_training"]

KERNELS = ("fused", "torch")


@dataclass(frozen=True)
class TrainingSetup:
    """What is planned.

    Args:
        recipe: the run; its data and output are not looked at.
        hardware: the GPUs of one machine, all used.
        sharding: "none", "fsdp", "zero2" or "zero3".
        kernels: "fused" (mamba-ssm is installed there) or "torch", for Mamba layers.

    Raises:
        ValueError: if the sharding or the kernels are unknown, or do not go with the hardware or the recipe.
    """

    recipe: LanguageRecipe
    hardware: Hardware
    sharding: str = "none"
    kernels: str = "fused"

    def __post_init__(self) -> None:
        check_sharding(self.sharding, self.hardware)
        if self.recipe.model.quantization and self.sharding != "none":
            raise ValueError(
                f"sharding={self.sharding!r} must not come with "
                f"model.quantization={self.recipe.model.quantization!r}, which trains with whole copies of the base; "
                "use none"
            )
        if self.recipe.training.loss == "liger":
            raise ValueError(
                "training.loss='liger' cannot be planned, for its kernel chooses the slices; plan with "
                "training.loss=sliced"
            )
        if self.kernels not in KERNELS:
            raise ValueError(f"kernels={self.kernels!r} must be one of {', '.join(KERNELS)}")

    @property
    def mixed_precision(self) -> str:
        """accelerate's name of the precision; the GPUs are taken to have bfloat16."""
        return "no" if self.recipe.training.mixed_precision == "float32" else "bf16"

    @property
    def accumulates(self) -> bool:
        """Whether gradients of several micro-batches are added up."""
        training = self.recipe.training
        return training.global_batch_size > training.batch_size * self.hardware.gpus


class Estimator:
    """The memory of a setup at any context length.

    Args:
        setup: what is planned.

    Raises:
        RecipeError: if the recipe and its model do not fit together.
    """

    def __init__(self, setup: TrainingSetup) -> None:
        self.setup = setup
        plan = plan_model(setup.recipe)
        self.simulation = Simulation(
            setup.recipe, plan, setup.mixed_precision, accumulate=setup.accumulates, kernels=setup.kernels
        )
        self.model = self.simulation.model
        self._sharding = Sharding.of(setup.sharding, self.model, setup.mixed_precision)

        self.parameters = count_parameters(self.model)

    def profile(self, length: int) -> tuple[MemoryEstimate, ComputeEstimate]:
        """Memory and operations at a context of so many tokens."""
        recipe, sequences = self.setup.recipe, self.setup.recipe.training.batch_size
        step = self.simulation.run(length, sequences)
        return self._memory(step), estimate_compute(step.operations, self.model, recipe.attention, length, sequences)

    def total(self, length: int) -> int:
        """Bytes of each GPU at a context of so many tokens."""
        return self.profile(length)[0].total

    def plan(self) -> TrainingPlan:
        """What the run takes; how long a context would fit is not looked for."""
        memory, compute = self.profile(self.setup.recipe.training.sequence_length)
        logits = _logits(self.setup, self.model)
        return TrainingPlan(self.setup, self.parameters, memory, compute, logits, self.simulation.fused_layers)

    def search(self, plan: TrainingPlan, progress: Callable[[str], None] = lambda step: None) -> int:
        """The longest context that fits, in tokens, to within a few percent; 0 where none does.

        Args:
            plan: of the same setup.
            progress: called with what is tried next, in words.
        """
        planned = self.setup.recipe.training.sequence_length
        known = {planned: plan.memory.total}

        def total(tokens: int) -> int:
            if tokens not in known:
                progress(f"Looking for the longest context: {tokens:,} tokens")
                known[tokens] = self.total(tokens)
            return known[tokens]

        resident, usable = self._memory(self.simulation.resident()), self.setup.hardware.usable
        if resident.total > usable:
            return 0
        # What the optimizer takes for itself is gone when a micro-batch begins.
        start = resident.total - resident.parts.get("optimizer's own", 0)
        return longest_context(total, start, usable, planned, plan.longest_tried)

    def _memory(self, step: StepProfile) -> MemoryEstimate:
        return estimate_memory(step, self.model, self.setup.recipe.optimizer, self._sharding, self.setup.hardware.gpus)


@dataclass(frozen=True)
class TrainingPlan:
    """What a run takes.

    Args:
        setup: what was planned.
        parameters: by group.
        memory: of each GPU.
        compute: operations per token.
        logits: bytes of the head's logits in slices, and of a loss that makes them all at once.
        fused_layers: layers whose kernel was modelled instead of run.
        longest: the longest context that fits, in tokens, to within a few percent; 0 where none does, and None where
            none was looked for.
    """

    setup: TrainingSetup
    parameters: dict[str, GroupParameters]
    memory: MemoryEstimate
    compute: ComputeEstimate
    logits: tuple[int, int]
    fused_layers: int
    longest: int | None = None

    @property
    def longest_tried(self) -> int:
        """The longest context that was looked for, in tokens."""
        return longest_tried(self.setup.recipe.training.sequence_length)

    @property
    def fits(self) -> bool:
        """Whether the tensors fill no more than what can be used."""
        return self.memory.total <= self.setup.hardware.usable


def plan_training(setup: TrainingSetup, progress: Callable[[str], None] = lambda step: None) -> TrainingPlan:
    """Plan a run; nothing is loaded or allocated.

    Args:
        setup: what to plan.
        progress: called with what is tried next, in words.

    Raises:
        RecipeError: if the recipe and its model do not fit together.
    """
    progress("Making the model without weights")
    estimator = Estimator(setup)
    progress(f"Trying a step of {setup.recipe.training.sequence_length:,} tokens")
    plan = estimator.plan()
    return replace(plan, longest=estimator.search(plan, progress))


def _logits(setup: TrainingSetup, model: nn.Module) -> tuple[int, int]:
    """Bytes of logits, their float32 copy and its gradient, for a slice and for a whole micro-batch."""
    training = setup.recipe.training
    vocabulary = decoder_and_head(model).weight.shape[0]
    each = vocabulary * (10 if setup.mixed_precision == "bf16" else 8)
    tokens = training.batch_size * training.sequence_length
    return min(training.loss_slice, tokens) * each, tokens * each
