# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the GPU kernels of recurrent layers that keep packed sequences apart."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.nn.functional import conv1d, linear, pad, silu, softplus
from transformers import PreTrainedModel

# What modelling files call: the dimension along which its tensors hold tokens, and the argument with boundaries.
_FUNCTIONS = {
    "causal_conv1d_fn": (-1, "seq_idx"),
    "mamba2_chunk_scan": (1, "seq_idx"),
    "mamba2_split_conv1d_scan_combined": (1, "seq_idx"),
    "torch_chunk_gated_delta_rule": (1, "cu_seqlens"),
}


@contextmanager
def boundary_kernels(model: PreTrainedModel, leave_out: tuple[str, ...] = ()) -> Iterator[None]:
    """Let a model's recurrent layers run as with the packages of kernels installed.

    transformers' wrappers are given stand-ins where they would have found a package's function: its own torch code,
    called for each sequence by itself if, and only if, the layer tells it of boundaries.

    Args:
        model: of any architecture.
        leave_out: functions that have no kernel.
    """
    codes = {sys.modules[type(module).__module__] for module in model.modules()}
    wrappers = {
        id(function): (name, function)
        for code in codes
        for name, function in vars(code).items()
        if name in _FUNCTIONS.keys() - set(leave_out)
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, function in wrappers.values():
            if isinstance(function, torch.nn.Module):  # the package `kernels` makes modules of functions
                function = cell_of(type(function).forward, "func").cell_contents
            cells = {name: cell_of(function, name) for name in ("implementation", "applicable_params")}
            kernel = keep_apart(name, cells["implementation"].cell_contents)
            patch.setattr(cells["implementation"], "cell_contents", kernel)
            known = (*cells["applicable_params"].cell_contents, _FUNCTIONS[name][1])
            patch.setattr(cells["applicable_params"], "cell_contents", known)
            patch.setattr(cell_of(function, "is_new_implementation"), "cell_contents", True)
        yield


def cell_of(function: Callable, name: str):
    """Where a function keeps a variable that it encloses."""
    return dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))[name]


def fused(
    projected,
    conv_weight,
    conv_bias,
    dt_bias,
    A,
    D,
    rmsnorm_weight,
    rmsnorm_eps,
    outproj_weight,
    outproj_bias,
    headdim,
    ngroups,
    dt_limit,
    **kwargs,
):
    """What mamba-ssm's fused kernel computes, one token after the other."""
    heads = len(A)
    inner = heads * headdim
    channels, taps = conv_weight.shape
    gate, states, dt = projected.split([inner, channels, heads], dim=-1)
    states = pad(states.transpose(1, 2), (taps - 1, 0))
    states = silu(conv1d(states, conv_weight[:, None], conv_bias, groups=channels)).transpose(1, 2)
    x, B, C = states.split([inner, (channels - inner) // 2, (channels - inner) // 2], dim=-1)
    x = x.unflatten(-1, (heads, headdim))
    B, C = (part.unflatten(-1, (ngroups, -1)).repeat_interleave(heads // ngroups, dim=2) for part in (B, C))
    dt = softplus(dt + dt_bias).clamp(*dt_limit)

    memory = torch.zeros(*x[:, 0].shape, B.shape[-1])
    outputs = []
    for t in range(x.shape[1]):
        step = dt[:, t, :, None]
        memory = memory * (step * A[:, None]).exp()[..., None] + (step * x[:, t])[..., None] * B[:, t, :, None]
        outputs.append((memory * C[:, t, :, None]).sum(-1) + D[:, None] * x[:, t])
    y = torch.stack(outputs, dim=1).flatten(2) * silu(gate)
    groups = y.unflatten(-1, (ngroups, -1))
    y = (groups * torch.rsqrt(groups.pow(2).mean(-1, keepdim=True) + rmsnorm_eps)).flatten(2) * rmsnorm_weight
    return linear(y.to(outproj_weight.dtype), outproj_weight, outproj_bias)


def keep_apart(name: str, torch_code: Callable) -> Callable:
    """The stand-in for the kernel of a function, made of its torch code."""
    dim, argument = _FUNCTIONS[name]
    # There is no torch code of the fused kernel.
    function = fused if "split_conv1d" in name else torch_code

    def kernel(*tensors, **named):
        boundaries = {name: named.pop(name, None) for name in ("seq_idx", "cu_seqlens")}[argument]
        if boundaries is None:
            return function(*tensors, **named)
        batch, length = tensors[0].shape[0], tensors[0].shape[dim]

        def part(value, row, start, end):
            long = isinstance(value, torch.Tensor) and value.ndim > max(dim, 1) and value.shape[dim] == length
            return value[row : row + 1].narrow(dim, start, end - start) if long else value

        rows = []
        for row in range(batch):
            outputs = []
            for start, end in _spans(boundaries, row, length):
                cut = [part(value, row, start, end) for value in tensors]
                output = function(*cut, **{name: part(value, row, start, end) for name, value in named.items()})
                outputs.append(output if isinstance(output, tuple) else (output, None))
            rows.append(torch.cat([output for output, _ in outputs], dim))
        # Whoever asks for a state besides has one row.
        return (torch.cat(rows), outputs[-1][1]) if isinstance(output, tuple) else torch.cat(rows)

    return kernel


def _spans(boundaries: torch.Tensor, row: int, length: int) -> list[tuple[int, int]]:
    """(start, end) of each sequence in a row, from `seq_idx` [B, length] or, of one row alone, from `cu_seqlens`."""
    assert boundaries.dtype == torch.int32
    if boundaries.ndim == 2:
        starts = [0, *(boundaries[row].diff().nonzero()[:, 0] + 1).tolist()]
    else:
        assert row == 0
        starts = boundaries[:-1].tolist()
    return list(zip(starts, [*starts[1:], length], strict=True))
