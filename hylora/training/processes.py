# SPDX-License-Identifier: Apache-2.0
"""Several processes: what they must agree on, and tensors that are sharded over them (FSDP2)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["like", "main_first", "on_main", "process_state", "sum_over_processes", "whole"]

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
