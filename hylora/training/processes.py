# SPDX-License-Identifier: Apache-2.0
"""Several processes: what they must agree on, and tensors that are sharded over them (FSDP2)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedType,
    GradientAccumulationPlugin,
    broadcast_object_list,
    parse_flag_from_env,
)
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from hylora.training.feed import Share
from hylora.training.recipe import LoopRecipe, RecipeError, TrackingRecipe

__all__ = [
    "SHARDED",
    "build_accelerator",
    "like",
    "main_first",
    "on_main",
    "process_state",
    "share_of",
    "sum_over_processes",
    "whole",
]

# The kinds of training in which no process holds the whole model.
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)

T = TypeVar("T")


def process_state() -> PartialState:
    """accelerate's view of the processes that were launched.

    Raises:
        RuntimeError: if several were launched and accelerate would let each of them run for itself.
    """
    # Accelerator reads this variable, PartialState does not.
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and state.num_processes == 1:
        raise RuntimeError(
            f"{launched} processes were launched, but accelerate found no GPU to connect them; to train on CPUs set "
            "ACCELERATE_USE_CPU=true"
        )
    return state


def build_accelerator(loop: LoopRecipe, tracking: TrackingRecipe, logs: Path) -> Accelerator:
    """An accelerator for a run; how many processes there are is the launcher's choice.

    Args:
        loop, tracking: sections of the recipe.
        logs: folder for what trackers write.

    Raises:
        RecipeError: if the global batch cannot be spread over the processes, or the mixed precision cannot be had.
    """
    processes = process_state().num_processes
    if loop.global_batch_size % (loop.batch_size * processes):
        raise RecipeError(
            f"training.global_batch_size={loop.global_batch_size} is not a multiple of training.batch_size="
            f"{loop.batch_size} times {processes} processes"
        )
    # One program may make several runs, and accelerate keeps the first one's precision otherwise.
    AcceleratorState._reset_state()
    # How many passes an update has is the feed's to say, and the environment's settings must not scale it.
    accelerator = Accelerator(
        mixed_precision=_mixed_precision(loop, process_state().device),
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1, sync_with_dataloader=False),
        log_with=list(tracking.trackers) or None,
        project_dir=str(logs),
    )
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and accelerator.distributed_type == DistributedType.MULTI_CPU:
        raise RecipeError(
            "FSDP was asked for, and accelerate shards over GPUs alone: on CPUs every process would hold the whole "
            "model; launch with recipes/accelerate/ddp.yaml"
        )
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None:
        # DeepSpeed would read both off a DataLoader that it is never given.
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = loop.batch_size
        plugin.deepspeed_config["gradient_accumulation_steps"] = 1
    return accelerator


def _mixed_precision(loop: LoopRecipe, device: torch.device) -> str:
    """accelerate's name of the recipe's mixed precision."""
    on_gpu = device.type == "cuda"
    if loop.mixed_precision == "auto":
        return "bf16" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if loop.mixed_precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise RecipeError("training.mixed_precision='bf16' needs a GPU that has bfloat16; use float32")
    return "bf16" if loop.mixed_precision == "bf16" else "no"


def share_of(accelerator: Accelerator) -> Share:
    """This process's share of every update."""
    return Share(accelerator.process_index, accelerator.num_processes)


def on_main(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Do something on the main process; every process gets its result, or its error.

    Without this, a failure of the main process would leave the others waiting for ever.

    Args:
        accelerator: of the run.
        work: called on the main process alone. Its result and its errors must be picklable where there are several.
    """
    if accelerator.num_processes == 1:
        return work()
    outcome: list = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except Exception as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def main_first(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Do something on the main process, then on every other one, which may then find its result in a cache.

    An error of the main process is everybody's, and keeps the others from trying.
    """
    results: list[T] = []
    on_main(accelerator, lambda: results.append(work()))
    return results[0] if results else work()


def sum_over_processes(accelerator: Accelerator, *values: float) -> list[float]:
    """The sum of each value over all processes."""
    if accelerator.num_processes == 1:
        return list(values)
    # Not every accelerator has float64; integers up to 2^24 and losses are well within float32.
    dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
    return accelerator.reduce(torch.tensor(values, dtype=dtype, device=accelerator.device)).tolist()


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor; every process must call it when the tensor is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor on the device of `reference`, and sharded as it is."""
    tensor = tensor.to(reference.device)
    if isinstance(reference, DTensor):
        return distribute_tensor(tensor, reference.device_mesh, reference.placements)
    return tensor
