# SPDX-License-Identifier: Apache-2.0
"""Mamba-2: mamba-ssm's `mamba_split_conv1d_scan_combined`, which has the output projection in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["Mamba2Scan"]

_SIZES = ("num_heads", "head_dim", "ssm_state_size", "n_groups", "chunk_size")
_PARTS = ("in_proj", "conv1d", "A_log", "D", "dt_bias", "out_proj")


@dataclass(frozen=True)
class Mamba2Scan:
    """The sizes of one layer's scan.

    Args:
        heads, head_dim, state, groups: of the state-space model; the width is `heads * head_dim`.
        chunk: tokens that the kernel handles with matrix products.
    """

    heads: int
    head_dim: int
    state: int
    groups: int
    chunk: int

    @classmethod
    def of(cls, mixer: nn.Module) -> Mamba2Scan | None:
        """The scan of a Mamba-2 mixer; None for any other module."""
        fits = all(hasattr(mixer, name) for name in (*_SIZES, *_PARTS)) and mixer.A_log.ndim == 1
        return cls(*(getattr(mixer, name) for name in _SIZES)) if fits else None

    @property
    def width(self) -> int:
        """Channels of the scan."""
        return self.heads * self.head_dim

    def operations(self, tokens: int) -> int:
        """Floating-point operations of the scan alone, forward, of the state-space duality's chunked algorithm."""
        products = 2 * self.chunk * self.groups * self.state  # of B and C within a chunk
        within = self.chunk * self.width  # weights times inputs, the lower triangle
        states = 4 * self.width * self.state  # into the chunks' states and out of them
        return tokens * (products + within + states)

    def backward_operations(self, tokens: int) -> int:
        """Operations of the backward pass: two products for each of the forward pass, and the states once more."""
        return 2 * self.operations(tokens) + tokens * (2 * self.chunk * self.groups + 2 * self.width) * self.state

    def allocate_scan(self, like: Tensor) -> list[Tensor]:
        """What is alive while chunks are scanned: steps and decays, products within chunks, states."""
        batch, length, _ = like.shape
        chunks = -(-length // self.chunk)
        states = like.new_empty(batch, chunks, self.heads, self.head_dim, self.state, dtype=torch.float32)
        return [
            *(like.new_empty(batch, self.heads, chunks, self.chunk, dtype=torch.float32) for _ in range(2)),
            like.new_empty(batch, chunks, self.groups, self.chunk, self.chunk, dtype=torch.float32),
            states,
        ]

    def forward(self, mixer: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """In place of the mixer's forward: the input projection as it is, all else as in the kernel."""
        return _FusedMixer.apply(
            mixer.in_proj(hidden_states),
            *(mixer.conv1d.weight, mixer.conv1d.bias, mixer.A_log, mixer.D, mixer.dt_bias),
            getattr(getattr(mixer, "norm", None), "weight", None),
            *(mixer.out_proj.weight, mixer.out_proj.bias),
            self,
        )


class _FusedMixer(torch.autograd.Function):
    """Allocates in the order of mamba-ssm's `mamba_split_conv1d_scan_combined` (output projection included)."""

    @staticmethod
    def forward(ctx, projected, *parameters_and_scan):
        *parameters, scan = parameters_and_scan
        out_weight, out_bias = (None if x is None else x.to(projected.dtype) for x in parameters[-2:])
        batch, length, _ = projected.shape
        convolved = projected.new_empty(batch, length, scan.width + 2 * scan.groups * scan.state)
        working = scan.allocate_scan(projected)
        passed = working[-1].to(projected.dtype)
        scanned = projected.new_empty(batch, length, scan.width)
        del working, passed, convolved
        normed = torch.empty_like(scanned)
        deviation = projected.new_empty(batch * length * scan.groups, dtype=torch.float32)
        ctx.save_for_backward(projected, scanned, deviation, out_weight, *parameters)
        ctx.scan = scan
        return F.linear(normed, out_weight, out_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        projected, scanned, _, out_weight, *parameters = ctx.saved_tensors
        scan = ctx.scan
        batch, length, _ = projected.shape
        normed = torch.empty_like(scanned)
        convolved = projected.new_empty(batch, length, scan.width + 2 * scan.groups * scan.state)
        grad_projected, grad_convolved = torch.empty_like(projected), torch.empty_like(convolved)
        grad_normed = F.linear(grad, out_weight.T)
        grad_scanned = torch.empty_like(grad_normed)
        working = scan.allocate_scan(projected)
        passed, grad_states = working[-1].clone(), torch.empty_like(working[-1])
        halves = passed.to(projected.dtype), grad_states.to(projected.dtype)
        del working, passed, grad_states, halves
        # The kernel makes the gradient of the output projection even where it is frozen.
        grad_weight = grad.flatten(0, 1).T @ normed.flatten(0, 1)
        del convolved, grad_convolved, grad_normed, grad_scanned, normed
        wanted = [None if x is None else torch.empty_like(x) for x in parameters[:-2]]
        grad_bias = None if parameters[-1] is None else torch.empty_like(parameters[-1])
        return grad_projected, *wanted, grad_weight.to(parameters[-2].dtype), grad_bias, None
