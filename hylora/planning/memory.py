# SPDX-License-Identifier: Apache-2.0
"""From what one process holds to what each GPU holds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hylora.adapters.structure import base_model
from hylora.planning.hardware import Hardware
from hylora.planning.simulation import StepProfile
from hylora.training.optimizer import trainable
from hylora.training.recipe import OptimizerRecipe

__all__ = ["SHARDINGS", "WEIGHTS", "MemoryEstimate", "Sharding", "check_sharding", "estimate_memory"]

SHARDINGS = ("none", "fsdp", "zero2", "zero3")
WEIGHTS = ("frozen weights", "trained weights")
# Numbers in DeepSpeed's buckets, and weights that ZeRO-3 keeps together at most, as it sets them by itself.
_ZERO_BUCKET = 500_000_000
_ZERO_GATHERED = 1_000_000_000


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of each GPU by part, at the moment of a step when they are most.

    Args:
        parts: bytes by part.
        highest: the most bytes that each part of a micro-batch has at any moment of it.
        moment: "a micro-batch" or "the optimizer's step".
        offloaded: bytes of each tensor that waits on the host, for each GPU.
    """

    parts: dict[str, int]
    highest: dict[str, int]
    moment: str
    offloaded: tuple[int, ...] = ()

    @property
    def pinned(self) -> int:
        """Bytes of the host's memory for each GPU: torch pins it in powers of two."""
        return sum(1 << (size - 1).bit_length() for size in self.offloaded)

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Sharding:
    """What is spread over GPUs.

    Args:
        name: "none" (each GPU holds everything), "zero2" (gradients and optimizer state are spread), "fsdp" or "zero3"
            (weights as well).
        gathered: bytes of the weights that FSDP or ZeRO-3 brings together at a time.
    """

    name: str
    gathered: int

    @classmethod
    def of(cls, name: str, model: nn.Module, mixed_precision: str) -> Sharding:
        """The sharding of a model.

        Args:
            name: as above.
            model: with its adapter.
            mixed_precision: accelerate's name, "bf16" or "no".
        """
        base = base_model(model)
        kinds = set(base._no_split_modules or ())
        layers = [module for module in base.modules() if type(module).__name__ in kinds]
        sizes = [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers]
        whole = sum(parameter.numel() for parameter in base.parameters())
        # FSDP: the layer at work and the one fetched ahead. What lies outside of layers is one unit, and stays.
        at_work = whole - sum(sizes) + 2 * max(sizes, default=0)
        numbers = min(whole, _ZERO_GATHERED) if name == "zero3" else at_work
        return cls(name, numbers * (2 if mixed_precision == "bf16" else 4))


def check_sharding(name: str, hardware: Hardware) -> None:
    """Refuse a sharding that is unknown or needs more GPUs.

    Raises:
        ValueError: naming what is known, or the remedy.
    """
    if name not in SHARDINGS:
        raise ValueError(f"sharding={name!r} must be one of {', '.join(SHARDINGS)}")
    if name != "none" and hardware.gpus == 1:
        raise ValueError(f"sharding={name!r} must have more than one GPU, and gpus={str(hardware)!r}; use none")


def estimate_memory(
    micro_batch: StepProfile, model: nn.Module, optimizer: OptimizerRecipe, sharding: Sharding, gpus: int
) -> MemoryEstimate:
    """What each GPU holds at most.

    Args:
        micro_batch: what it takes, from `Simulation.run`.
        model: with its adapter.
        optimizer: which one.
        sharding: what is spread over the GPUs.
        gpus: how many.
    """
    trained = sum(parameter.numel() for parameter in trainable(model).values())
    gradients = 4 * trained
    step = {**{part: micro_batch.memory.get(part, 0) for part in WEIGHTS}, "gradients": gradients}
    step["optimizer's own"] = _optimizer_workspace(optimizer) * trained
    moments = {"a micro-batch": dict(micro_batch.memory), "the optimizer's step": step}
    for parts in moments.values():
        parts["optimizer state"] = _optimizer_state(optimizer) * trained
        if gpus > 1:
            _spread(parts, sharding, gpus, gradients)
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    parts = {part: size for part, size in moments[moment].items() if size}
    return MemoryEstimate(parts, micro_batch.highest, moment, micro_batch.offloaded)


def _optimizer_state(optimizer: OptimizerRecipe) -> int:
    """Bytes for each trained parameter that are kept between steps."""
    if optimizer.name == "sgd":
        return 4 if optimizer.momentum else 0
    return 8 if optimizer.name == "adamw" else 2


def _optimizer_workspace(optimizer: OptimizerRecipe) -> int:
    """Bytes for each trained parameter during the step: AdamW updates all at once, and holds their denominators."""
    return 4 if optimizer.name == "adamw" else 0


def _spread(parts: dict[str, int], sharding: Sharding, gpus: int, gradients: int) -> None:
    """Account for GPUs that share the work, in place."""
    updated = ("gradients", "optimizer state", "optimizer's own")
    spread = {"none": (), "zero2": updated, "fsdp": (*WEIGHTS, *updated), "zero3": (*WEIGHTS, *updated)}
    for part in spread[sharding.name]:
        parts[part] = -(-parts.get(part, 0) // gpus)
    # DDP keeps every gradient a second time, in the buckets that it sends.
    bucket = min(gradients, 4 * _ZERO_BUCKET)
    parts["communication"] = {
        "none": gradients,
        "zero2": bucket,
        "fsdp": sharding.gathered,
        "zero3": sharding.gathered + bucket,
    }[sharding.name]
