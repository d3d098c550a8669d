# SPDX-License-Identifier: Apache-2.0
"""Mamba-1: causal-conv1d's convolution and mamba-ssm's `selective_scan_fn`, with projections and norms as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["Mamba1Scan"]

_PARTS = ("in_proj", "conv1d", "x_proj", "dt_proj", "A_log", "D", "out_proj")
# Tokens between the states that the kernel writes down.
_CHUNK = 2048


@dataclass(frozen=True)
class Mamba1Scan:
    """The sizes of one layer's scan.

    Args:
        width: channels.
        state: numbers of state in each.
    """

    width: int
    state: int

    @classmethod
    def of(cls, mixer: nn.Module) -> Mamba1Scan | None:
        """The scan of a Mamba-1 mixer; None for any other module."""
        fits = all(hasattr(mixer, name) for name in _PARTS) and mixer.A_log.ndim == 2
        return cls(*mixer.A_log.shape) if fits else None

    def operations(self, tokens: int) -> int:
        """Operations of the scan alone, forward: decay, input and output of each number of state."""
        return 9 * tokens * self.width * self.state

    def backward_operations(self, tokens: int) -> int:
        """Operations of the backward pass, which makes the states once more."""
        return 3 * self.operations(tokens)

    def forward(self, mixer: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """In place of the mixer's forward: its projections and norms, and what the kernels allocate."""
        inputs, gate = mixer.in_proj(hidden_states).transpose(1, 2).chunk(2, dim=1)
        inputs = _Convolution.apply(inputs, mixer.conv1d.weight, mixer.conv1d.bias)
        sizes = [mixer.dt_proj.in_features, self.state, self.state]
        parts = mixer.x_proj(inputs.transpose(1, 2)).split(sizes, dim=-1)
        norms = (getattr(mixer, f"{name}_layernorm", nn.Identity()) for name in ("dt", "b", "c"))
        step, into, out = (norm(part) for part, norm in zip(parts, norms, strict=True))
        step = mixer.dt_proj.weight @ step.transpose(1, 2)
        scanned = _Scan.apply(
            *(inputs, step, into.transpose(1, 2), out.transpose(1, 2), gate),
            *(mixer.A_log, mixer.D, mixer.dt_proj.bias),
        )
        return mixer.out_proj(scanned.transpose(1, 2).to(hidden_states.dtype))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, *parameters):
        ctx.save_for_backward(inputs, *parameters)
        return torch.empty_like(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return _like(ctx.saved_tensors)


class _Scan(torch.autograd.Function):
    """Allocates in the order of mamba-ssm's kernel, which copies what does not lie along the tokens."""

    @staticmethod
    def forward(ctx, *inputs_and_parameters):
        inputs, parameters = [x.contiguous() for x in inputs_and_parameters[:5]], inputs_and_parameters[5:]
        batch, width, length = inputs[0].shape
        chunks = -(-length // _CHUNK)
        states = inputs[0].new_empty(batch, width, chunks, 2 * parameters[0].shape[1], dtype=torch.float32)
        ctx.save_for_backward(*inputs, *parameters, states, torch.empty_like(inputs[0]))
        return torch.empty_like(inputs[0])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grad = grad.contiguous()
        return _like(ctx.saved_tensors[:8])


def _like(tensors: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Gradients, without values."""
    return tuple(None if tensor is None else torch.empty_like(tensor) for tensor in tensors)
