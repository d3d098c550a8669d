# SPDX-License-Identifier: Apache-2.0
"""The Fisher information of a network's weights, from gradients of each image alone (section 2.1).

F is the mean, over images x and over labels y that the network itself predicts, of the squared gradients of
log p(y|x) (equation 2.2). The labels have to be drawn from p(y|x): with true labels, or the likeliest ones, it is
another quantity.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from hylora.training.evaluation import evaluation_mode
from hylora.training.optimizer import trainable
from hylora.training.parallelism import process_state

__all__ = ["Estimate", "exact_fisher_trace", "fisher_diagonal", "fisher_trace", "logits_of"]


class Estimate(NamedTuple):
    """A mean over draws.

    Attributes:
        value: the mean.
        error: its standard error.
    """

    value: float
    error: float


def logits_of(output: Any) -> Tensor:
    """The logits in what a network gives: itself, or its attribute `logits`, as transformers has it."""
    return output if isinstance(output, Tensor) else output.logits


def fisher_trace(network: nn.Module, inputs: Tensor, draws: int, draw: torch.Generator, chunk: int = 32) -> Estimate:
    """The trace of the Fisher information by Monte Carlo (equation 2.4), for each prediction.

    The network is in evaluation mode meanwhile. Processes share the inputs, and get the same estimate.

    Where a network makes several predictions for an input, as a language model does for each token, their labels are
    drawn independently. Scores have mean zero under the network's own distribution, so that the squared gradient of
    their sum has the sum of their traces as its mean; it is divided by their number.

    Args:
        network: gives logits [B, ..., C] for inputs [B, ...], each row for itself.
        inputs: [N, ...], the same in every process.
        draws: labels drawn for each input, at least 2.
        draw: gives them, on the CPU; the same in every process.
        chunk: inputs whose gradients are taken at once by `torch.func.vmap`; 1 takes one after another by plain
            autograd, for networks that vmap cannot trace.

    Returns:
        The estimate. Its error is that of drawing labels, for these inputs.

    Raises:
        ValueError: if there are fewer than two draws.
    """
    if draws < 2:
        raise ValueError(f"draws={draws!r} must be at least 2, for an error to be known")
    found = torch.zeros(2, dtype=torch.float64)
    for gradients, predictions in _sampled(network, inputs, draws, draw, chunk):
        norms = _square_norms(gradients).double().cpu() / predictions
        found += torch.stack([norms.mean(1).sum(), norms.var(1).sum()])
    total, variance = _summed(found, inputs.device).tolist()
    return Estimate(total / len(inputs), math.sqrt(variance / draws) / len(inputs))


def exact_fisher_trace(network: nn.Module, inputs: Tensor, chunk: int = 32) -> float:
    """The trace of the Fisher information (equation 2.3), over every label; arguments as for `fisher_trace`.

    The network makes one prediction for an input, [B, C].
    """
    found = torch.zeros(1, dtype=torch.float64)
    with evaluation_mode(network):
        for part in _chunks(inputs, chunk):
            with torch.no_grad():
                chances = logits_of(network(part)).double().softmax(-1).cpu()
            labels = torch.arange(chances.shape[1], device=part.device).expand(len(part), -1)
            found += (chances * _square_norms(_gradients(network, part, labels, chunk)).double().cpu()).sum()
    return _summed(found, inputs.device).item() / len(inputs)


def fisher_diagonal(
    network: nn.Module, inputs: Tensor, draws: int, draw: torch.Generator, chunk: int = 32
) -> dict[str, Tensor]:
    """The Fisher information of each trained parameter by itself, by name; arguments as for `fisher_trace`.

    Its sum over all parameters is the trace.
    """
    total = {name: torch.zeros_like(parameter) for name, parameter in trainable(network).items()}
    for gradients, predictions in _sampled(network, inputs, draws, draw, chunk):
        for name, gradient in gradients.items():
            total[name] += gradient.square().sum((0, 1)) / predictions
    return {name: _summed(value, inputs.device) / (len(inputs) * draws) for name, value in total.items()}


def _sampled(
    network: nn.Module, inputs: Tensor, draws: int, draw: torch.Generator, chunk: int
) -> Iterator[tuple[dict[str, Tensor], int]]:
    """For each chunk of this process's inputs, gradients with drawn labels, and how many predictions an input has."""
    with evaluation_mode(network):
        with torch.no_grad():
            places = logits_of(network(inputs[:1])).shape[1:-1]
        # Drawn for all inputs by every process, so that an input's labels do not depend on how many there are.
        chances = torch.rand(len(inputs), draws, *places, generator=draw, dtype=torch.float64)
        for part, chance in zip(_chunks(inputs, chunk), _chunks(chances, chunk), strict=True):
            with torch.no_grad():
                logits = logits_of(network(part))
            yield _gradients(network, part, _labels(logits, chance), chunk), math.prod(places)


def _labels(logits: Tensor, chances: Tensor) -> Tensor:
    """Labels [N, D, ...] drawn from the predicted distributions by numbers [N, D, ...], uniform in [0, 1)."""
    steps = logits.cpu().double().softmax(-1).cumsum(-1)[:, None]
    found = torch.searchsorted(steps.expand(*chances.shape, -1).contiguous(), chances[..., None], right=True)
    return found[..., 0].clamp(max=logits.shape[-1] - 1).to(logits.device)


def _gradients(network: nn.Module, inputs: Tensor, labels: Tensor, chunk: int) -> dict[str, Tensor]:
    """Gradients of log p(label|input), [N, D, *shape] for each trained parameter, with labels [N, D, ...]."""
    parameters = trainable(network)

    def scores(values: Mapping[str, Tensor], row: Tensor, chosen: Tensor) -> Tensor:
        logits = logits_of(functional_call(network, values, (row[None],)))[0]
        logs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        return logs.expand(*chosen.shape, -1).gather(-1, chosen[..., None]).flatten(1).sum(1)

    if chunk > 1:
        values = {name: parameter.detach() for name, parameter in parameters.items()}
        return vmap(jacrev(scores), in_dims=(None, 0, 0))(values, inputs, labels)
    rows = []
    for row, chosen in zip(inputs, labels, strict=True):
        with torch.enable_grad():
            found = scores(parameters, row, chosen)
        rows.extend(
            torch.autograd.grad(score, list(parameters.values()), retain_graph=True, materialize_grads=True)
            for score in found
        )
    stacked = (torch.stack(column).unflatten(0, labels.shape[:2]) for column in zip(*rows, strict=True))
    return dict(zip(parameters, stacked, strict=True))


def _square_norms(gradients: Mapping[str, Tensor]) -> Tensor:
    """Of whole gradients, [N, D]."""
    return sum(gradient.flatten(2).square().sum(-1) for gradient in gradients.values())


def _chunks(rows: Tensor, chunk: int) -> Sequence[Tensor]:
    """This process's part; nothing where there are fewer rows than processes."""
    state = process_state()
    own = rows[state.process_index :: state.num_processes]
    return own.split(chunk) if len(own) else ()


def _summed(value: Tensor, device: torch.device) -> Tensor:
    """The sum over all processes."""
    return value if process_state().num_processes == 1 else reduce(value.to(device), "sum")
