# SPDX-License-Identifier: Apache-2.0
"""Held-out rows dealt to processes, and what a model makes of them, summed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from hylora.training.feed import Batch, Share
from hylora.training.processes import sum_over_processes

__all__ = ["deal", "mean_loss", "totals"]


def deal(
    rows: Any, size: int, share: Share, blank: Callable[[Any], Any], limit: int | None = None
) -> Iterator[list[Any]]:
    """This process's batches of rows, as many as every other process has: forward passes are collective under DDP.

    Args:
        rows: map-style, or a stream that ends; every process passes the same.
        size: rows in a batch.
        share: which part is this process's.
        blank: makes a row count for nothing, for a process that has no row left when others have.
        limit: at most so many rows in all; None for every one.
    """
    left = map(rows.__getitem__, range(len(rows))) if hasattr(rows, "__len__") else iter(rows)
    left = islice(left, limit)
    first = share.rank * size
    while group := list(islice(left, size * share.world_size)):
        yield group[first : first + size] or [blank(group[0])]


def totals(
    model: nn.Module, batches: Iterable[Batch], accelerator: Accelerator, check_stop: Callable[[], Any]
) -> list[float]:
    """Each number that the model gives for a batch, summed over batches and processes.

    Args:
        model: as the accelerator prepared it.
        batches: of this process, as many as every other process has, and at least one.
        accelerator: of the run.
        check_stop: called before each batch.
    """
    total = torch.zeros((), device=accelerator.device, dtype=torch.float32)
    for batch in batches:
        check_stop()
        with torch.no_grad():
            output = model(**{name: value.to(accelerator.device) for name, value in batch.items()})
        total = total + torch.stack([value.float() for value in output])
    return sum_over_processes(accelerator, *total.tolist())


def mean_loss(
    model: nn.Module, batches: Iterable[Batch], accelerator: Accelerator, check_stop: Callable[[], Any]
) -> float:
    """The loss of batches per term, over all processes; arguments as for `totals`."""
    loss_sum, count = totals(model, batches, accelerator, check_stop)
    return loss_sum / max(count, 1)
