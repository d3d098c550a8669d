# SPDX-License-Identifier: Apache-2.0
"""Several processes: what they must agree on, and tensors that are sharded over them (FSDP2, ZeRO-3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from hylora.training.feed import Share

__all__ = [
    "SHARDED",
    "like",
    "main_first",
    "on_all",
    "on_main",
    "reshard",
    "shape_of",
    "shards_parameters",
    "share_of",
    "sum_over_processes",
    "whole",
]

# The kinds of training in which no process holds the whole of what it trains.
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)

T = TypeVar("T")


def shards_parameters(accelerator: Accelerator) -> bool:
    """Whether no process holds all parameters: under FSDP2 and ZeRO-3, but not where ZeRO spreads optimizer state."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return accelerator.distributed_type in SHARDED
    return accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]["stage"] == 3


def share_of(accelerator: Accelerator) -> Share:
    """This process's share of every update."""
    return Share(accelerator.process_index, accelerator.num_processes)


def on_main(accelerator: Accelerator | PartialState, work: Callable[[], T]) -> T:
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
        outcome = _attempt(work)
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def on_all(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Do something on every process; where any fails, all raise the error of the first that did.

    Args:
        accelerator: of the run.
        work: called on every process; it must not wait for others. Its errors must be picklable.
    """
    if accelerator.num_processes == 1:
        return work()
    result, error = _attempt(work)
    for other in gather_object([error]):
        if other is not None:
            raise other
    return result


def _attempt(work: Callable[[], T]) -> list:
    """What came of it: a result and None, or None and an error."""
    try:
        return [work(), None]
    except Exception as error:
        return [None, error]


def main_first(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Do something on the main process, then on every other one, which may then find its result in a cache.

    An error of any process is everybody's, and one of the main process keeps the others from trying.
    """
    results: list[T] = []
    on_main(accelerator, lambda: results.append(work()))
    return on_all(accelerator, lambda: results[0] if results else work())


def sum_over_processes(accelerator: Accelerator, *values: float) -> list[float]:
    """The sum of each value over all processes."""
    if accelerator.num_processes == 1:
        return list(values)
    # Not every accelerator has float64; integers up to 2^24 and losses are well within float32.
    dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
    return accelerator.reduce(torch.tensor(values, dtype=dtype, device=accelerator.device)).tolist()


def reshard(model: nn.Module) -> None:
    """Let every process hold its shards alone, as FSDP2 leaves a model after a backward pass, but not after others."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def shape_of(parameter: nn.Parameter) -> torch.Size:
    """The shape of the whole of a parameter, of which ZeRO-3 leaves an empty one in sight."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor; every process must call it when the tensor is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor on the device of `reference`, and sharded as it is."""
    tensor = tensor.to(reference.device)
    if isinstance(reference, DTensor):
        return distribute_tensor(tensor, reference.device_mesh, reference.placements)
    return tensor
