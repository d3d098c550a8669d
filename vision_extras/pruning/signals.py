# SPDX-License-Identifier: Apache-2.0
"""What is measured of a model while it is trained, to tell when it may be pruned: methods that any task can add."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor, nn

from hylora.training.method import Method
from hylora.training.moment import Moment
from hylora.training.parallelism import process_state
from vision_extras.pruning.fisher import fisher_trace, logits_of

__all__ = ["FisherTrace", "KLUniform", "Signal", "kl_uniform"]


class Signal(Method):
    """A number that is measured of a model in the course of its training, and changes nothing in it.

    Attributes:
        label: its name in the record of updates.
        value: as the last update found it, the same in every process; None where it was not measured.
    """

    label: str
    value: float | None = None

    def scheduled(self, moment: Moment) -> dict[str, float]:
        """The value, where there is one."""
        return {} if self.value is None else {self.label: self.value}


class FisherTrace(Signal):
    """The trace of the Fisher information (equation 2.4) on fixed inputs, recorded as `fisher` and `fisher_error`.

    Args:
        network: gives logits [B, ..., C], or an output with such `logits`, for inputs [B, ...].
        probe: [N, ...], inputs from the training set, the same in every process.
        due: whether to measure when so many updates are made.
        draws: labels drawn for each input, at least 2.
        chunk: inputs whose gradients are in memory together, each with all its draws; 1 for networks that
            `torch.func.vmap` cannot trace.
    """

    label = "fisher"

    def __init__(
        self, network: nn.Module, probe: Tensor, due: Callable[[int], bool], draws: int = 4, chunk: int = 32
    ) -> None:
        self._network = network
        self._probe = probe
        self._due = due
        self._draws = draws
        self._chunk = chunk
        self._error = 0.0

    def end(self, moment: Moment) -> None:
        self.value = None
        if self._due(moment.step + 1):
            self._probe = self._probe.to(next(self._network.parameters()).device)
            draw = moment.generator(self.label)
            self.value, self._error = fisher_trace(self._network, self._probe, self._draws, draw, self._chunk)

    def scheduled(self, moment: Moment) -> dict[str, float]:
        """The value and its standard error, where there are any."""
        found = super().scheduled(moment)
        return found | {f"{self.label}_error": self._error} if found else {}

    def noteworthy(self, moment: Moment) -> bool:
        """Whether there is a value."""
        return self.value is not None


class KLUniform(Signal):
    """The mean of KL(uniform || p) over an update's predictions p (equation 2.5), recorded as `kl_uniform`.

    It listens to the forward passes of training, so that it costs nothing. Where gradients are taken more than once
    in an update, the first time counts, at the weights themselves.

    Args:
        module: gives logits [..., C], or an output with such `logits`. For a language model that is the module
            `predictions` of its `CausalLoss`.
    """

    label = "kl_uniform"

    def __init__(self, module: nn.Module) -> None:
        module.register_forward_hook(self._listen)
        self._listening = False
        self._found: list[Tensor] = []

    def _listen(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._listening:
            divergence = kl_uniform(logits_of(output).detach())
            self._found.append(torch.stack([divergence.sum(), divergence.new_tensor(divergence.numel())]))

    def gradients(self, accumulate: Callable[[], Tensor]) -> Tensor:
        self._listening = not self._found
        try:
            return accumulate()
        finally:
            self._listening = False

    def begin(self, moment: Moment) -> bool:
        self._found = []
        return False

    def end(self, moment: Moment) -> None:
        state = process_state()
        total = torch.stack(self._found).sum(0) if self._found else torch.zeros(2, device=state.device)
        divergence, count = (total if state.num_processes == 1 else reduce(total, "sum")).tolist()
        if not count:
            raise RuntimeError(
                f"update {moment.step + 1} showed no predictions to the signal {self.label!r}: the module that it was "
                "given is not called in training; give it the one that makes the logits"
            )
        self.value = divergence / count
        self._found = []


def kl_uniform(logits: Tensor) -> Tensor:
    """KL(u || p) of the uniform distribution u from the predicted p, in nats: `logsumexp(z) - mean(z) - log(C)`.

    Args:
        logits: [..., C].

    Returns:
        [...], in float32 at least.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.logsumexp(-1) - logits.mean(-1) - math.log(logits.shape[-1])
