# SPDX-License-Identifier: Apache-2.0
"""Several processes that must agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

__all__ = ["on_main", "sum_over_processes"]

T = TypeVar("T")


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


def sum_over_processes(accelerator: Accelerator, *values: float) -> list[float]:
    """The sum of each value over all processes."""
    if accelerator.num_processes == 1:
        return list(values)
    # Not every accelerator has float64; integers up to 2^24 and losses are well within float32.
    dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
    return accelerator.reduce(torch.tensor(values, dtype=dtype, device=accelerator.device)).tolist()
