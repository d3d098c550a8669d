# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the GPU kernels of recurrent layers that keep packed sequences apart."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from transformers import PreTrainedModel

# What modelling files call: the dimension along which its tensors hold tokens, and the argument with boundaries.
_FUNCTIONS = {
    "causal_conv1d_fn": (-1, "seq_idx"),
    "mamba2_chunk_scan": (1, "seq_idx"),
    "torch_chunk_gated_delta_rule": (1, "cu_seqlens"),
}


@contextmanager
def boundary_kernels(model: PreTrainedModel) -> Iterator[None]:
    """Let a model's recurrent layers run as with the kernels installed.

    The stand-ins are transformers' own torch code, called for each sequence by itself if, and only if, the layer tells
    them of boundaries.
    """
    modules = {type(module).__module__ for module in model.modules()}
    with pytest.MonkeyPatch.context() as patch:
        for code in map(sys.modules.get, sorted(modules)):
            for name in _FUNCTIONS.keys() & vars(code).keys():
                patch.setattr(code, name, _apart(getattr(code, name), *_FUNCTIONS[name]))
        for package in ("causal_conv1d", "mamba_ssm", "fla"):
            module = types.ModuleType(package)
            module.__spec__ = importlib.machinery.ModuleSpec(package, None)
            patch.setitem(sys.modules, package, module)
        yield


def _apart(function: Callable, dim: int, argument: str) -> Callable:
    def kernel(*tensors, **named):
        boundaries = {name: named.pop(name, None) for name in ("seq_idx", "cu_seqlens")}[argument]
        if boundaries is None:
            return function(*tensors, **named)
        length = tensors[0].shape[dim]

        def part(value, start, end):
            long = isinstance(value, torch.Tensor) and value.ndim > max(dim, 1) and value.shape[dim] == length
            return value.narrow(dim, start, end - start) if long else value

        outputs = []
        for start, end in _spans(boundaries, length):
            cut = [part(value, start, end) for value in tensors]
            outputs.append(function(*cut, **{name: part(value, start, end) for name, value in named.items()}))
        if isinstance(outputs[0], tuple):
            return torch.cat([output for output, _ in outputs], dim), outputs[-1][1]
        return torch.cat(outputs, dim)

    return kernel


def _spans(boundaries: torch.Tensor, length: int) -> list[tuple[int, int]]:
    """(start, end) of each sequence in a row, from its `seq_idx` [1, length] or from `cu_seqlens`."""
    if boundaries.ndim == 2:
        starts = [0, *(boundaries[0].diff().nonzero()[:, 0] + 1).tolist()]
    else:
        starts = boundaries[:-1].tolist()
    return list(zip(starts, [*starts[1:], length], strict=True))
