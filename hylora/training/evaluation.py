# SPDX-License-Identifier: Apache-2.0
"""Held-out rows dealt to processes, and what a model in evaluation mode makes of them, summed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

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
        for module, training in modes:
            # transformers chooses kernels of the Hub by mode, and some for evaluation have no backward pass.
            if training and getattr(module, "_use_kernels", False):
                module.set_use_kernels(True)


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
    measure: Callable[..., Iterable[Tensor]],
    batches: Iterable[Batch],
    accelerator: Accelerator,
    check_stop: Callable[[], Any],
) -> list[Tensor]:
    """What is measured of a batch, summed over batches and processes.

    Args:
        measure: called with a batch as keyword arguments, gives tensors of the same shapes for each: a model as the
            accelerator prepared it, or what makes something of that.
        batches: of this process, as many as every other process has, and at least one.
        accelerator: of the run.
        check_stop: called before each batch.

    Returns:
        The sums, in float64 on the host.
    """
    total: list[Tensor] = []
    for batch in batches:
        check_stop()
        with torch.no_grad():
            output = measure(**{name: value.to(accelerator.device) for name, value in batch.items()})
        # In double precision, since a float32 counts to 17 million only; on the host, since not every device has it.
        values = [value.cpu().double() for value in output]
        total = [a + b for a, b in zip(total, values, strict=True)] if total else values
    numbers = sum_over_processes(accelerator, *torch.cat([value.flatten() for value in total]).tolist())
    parts = torch.tensor(numbers, dtype=torch.float64).split([value.numel() for value in total])
    return [part.view(value.shape) for part, value in zip(parts, total, strict=True)]


def mean_loss(
    model: nn.Module, batches: Iterable[Batch], accelerator: Accelerator, check_stop: Callable[[], Any]
) -> float:
    """The loss of batches per term, over all processes; arguments as for `totals`, with a model to measure."""
    loss_sum, count = totals(model, batches, accelerator, check_stop)
    return float(loss_sum / max(count, 1))
