# SPDX-License-Identifier: Apache-2.0
"""Held-out rows dealt to processes, and what a model in evaluation mode makes of them, summed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from hylora.training.feed import Batch, Share
from hylora.training.processes import sum_over_processes

__all__ = ["deal", "evaluation_mode", "mean_loss", "totals"]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and each of its modules back in the mode it was in afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        # Not model.train(): frozen parts may have been in evaluation mode within a model that trains.
        for module, training in modes:
            module.training = training


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
    map_style = hasattr(rows, "__len__")
    # Numbers of rows in place of the rows, so that a process reads its own ones alone.
    left = islice(range(len(rows)) if map_style else rows, limit)
    first = share.rank * size
    while group := list(islice(left, size * share.world_size)):
        chosen, spare = group[first : first + size], group[0]
        if map_style:
            chosen, spare = [rows[number] for number in chosen], None if chosen else rows[spare]
        yield chosen or [blank(spare)]


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
    # On the host in double precision: a float32 counts to 17 million only.
    total: list[float] = []
    for batch in batches:
        check_stop()
        with torch.no_grad():
            output = model(**{name: value.to(accelerator.device) for name, value in batch.items()})
        values = torch.stack([value.float() for value in output]).tolist()
        total = [a + b for a, b in zip(total or [0.0] * len(values), values, strict=True)]
    return sum_over_processes(accelerator, *total)


def mean_loss(
    model: nn.Module, batches: Iterable[Batch], accelerator: Accelerator, check_stop: Callable[[], Any]
) -> float:
    """The loss of batches per term, over all processes; arguments as for `totals`."""
    loss_sum, count = totals(model, batches, accelerator, check_stop)
    return loss_sum / max(count, 1)
