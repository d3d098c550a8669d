# SPDX-License-Identifier: Apache-2.0
"""The gradients of an update: its micro-batches run forward and backward, one after another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from hylora.randomness import derive_key
from hylora.training.feed import Batch
from hylora.training.moment import Moment

__all__ = ["Accumulation", "Interrupted", "PassBuffers"]


class Interrupted(Exception):
    """A signal asks to stop."""


class PassBuffers:
    """Puts back the buffers that forward passes changed, where a stop leaves an update half-way.

    Only those are copied that passes change, such as batch statistics, and not masks as large as the model. Which they
    are, the first window shows; for that one all are copied.

    Args:
        buffers: that are part of the model's state.
    """

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        self._buffers = list(buffers)
        self._known = False

    @contextlib.contextmanager
    def undone_by_a_stop(self) -> Iterator[None]:
        """Where `Interrupted` ends the block, the buffers are as they were before it."""
        before = [(buffer, buffer.clone()) for buffer in self._buffers]
        try:
            yield
        except Interrupted:
            for buffer, value in before:
                buffer.copy_(value)
            raise
        if not self._known:
            # By value: batch statistics are updated by a kernel that tells torch nothing of it.
            self._buffers = [buffer for buffer, value in before if not torch.equal(buffer, value)]
            self._known = True


@dataclass
class Accumulation:
    """Called, it runs an update's window and adds to the gradients; it is what `Task.gradients` is given.

    Args:
        accelerator: of the run.
        model: as the accelerator prepared it.
        moment: of the update.
        window: this process's micro-batches.
        count: terms of the window's loss over all processes, which the gradients are divided by.
        buffers: of the model.
        check_stop: raises `Interrupted` on every process if any was asked to stop.
    """

    accelerator: Accelerator
    model: nn.Module
    moment: Moment
    window: Sequence[Batch]
    count: float
    buffers: PassBuffers
    check_stop: Callable[[], None]
    calls: int = field(default=0, init=False)

    def __call__(self) -> Tensor:
        """This process's summed loss."""
        first = self.calls == 0
        self.calls += 1
        if not first and self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            raise RuntimeError("gradients can be taken once in an update under DeepSpeed, which then makes its step")
        loss_sum = torch.zeros((), device=self.accelerator.device)
        # In a later call the task may have moved the weights, so that there is nothing sound to stop at.
        with self.buffers.undone_by_a_stop() if first else contextlib.nullcontext():
            for number, batch in enumerate(self.window):
                if first:
                    self.check_stop()
                loss_sum += self._backward(number, batch)
        return loss_sum

    def _backward(self, number: int, batch: Batch) -> Tensor:
        """Add a micro-batch's gradients; gives its summed loss."""
        accelerator, moment = self.accelerator, self.moment
        key = (moment.seed, moment.step, number, accelerator.process_index, self.calls)
        torch.manual_seed(derive_key("pass", *key))
        batch = {name: value.to(accelerator.device, non_blocking=True) for name, value in batch.items()}
        # A window may have any length, so it is said here and not to accelerate which pass is the last.
        last = number == len(self.window) - 1
        accelerator.sync_gradients = last
        with contextlib.nullcontext() if last else accelerator.no_sync(self.model):
            loss_sum, _ = self.model(**batch)
            # DDP averages over processes: undo that, and divide by the terms instead.
            accelerator.backward(loss_sum * (accelerator.num_processes / self.count))
        return loss_sum.detach()
