# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the GPU kernels of recurrent layers that keep packed sequences apart."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from hylora.adapters.structure import base_model
from hylora.recurrence import enclosed, wrapped_function

# What modelling files call: the dimension along which its tensors hold tokens, and the argument with boundaries.
_FUNCTIONS = {
    "causal_conv1d_fn": (-1, "seq_idx"),
    "mamba2_chunk_scan": (1, "seq_idx"),
    "mamba2_split_conv1d_scan_combined": (1, "seq_idx"),
    "torch_chunk_gated_delta_rule": (1, "cu_seqlens"),
}


@contextmanager
def boundary_kernels(model: nn.Module, others: Mapping[str, Callable | None] | None = None) -> Iterator[None]:
    """Let a model's recurrent layers run as with the packages of kernels installed.

    transformers' wrappers are given stand-ins where they would have found a package's function: its own torch code,
    called for each sequence by itself if, and only if, the layer tells it of boundaries.

    Args:
        model: of any architecture.
        others: by a function's name, what computes the same as its kernel, or None for a function without one.
    """
    others = others or {}
    codes = [vars(sys.modules[type(module).__module__]) for module in base_model(model).modules()]
    # By identity, since some files take a function from another one.
    wrappers = {
        id(code[name]): (name, wrapped_function(code[name])) for code in codes for name in _FUNCTIONS if name in code
    }
    with ExitStack() as stack:
        for name, function in wrappers.values():
            if others.get(name, name) is None:
                continue
            found = enclosed(function)
            stand_in = keep_apart(name, others.get(name, found["implementation"].cell_contents))
            arguments = (*found["applicable_params"].cell_contents, _FUNCTIONS[name][1])
            values = {"implementation": stand_in, "applicable_params": arguments, "is_new_implementation": True}
            for variable, value in values.items():
                stack.callback(setattr, found[variable], "cell_contents", found[variable].cell_contents)
                found[variable].cell_contents = value
        yield


def keep_apart(name: str, function: Callable) -> Callable:
    """The stand-in for the kernel `name`, made of what computes the same for one sequence."""
    dim, argument = _FUNCTIONS[name]

    def kernel(*tensors, **named):
        boundaries = {name: named.pop(name, None) for name in ("seq_idx", "cu_seqlens")}[argument]
        if boundaries is None:
            return function(*tensors, **named)
        batch, length = tensors[0].shape[0], tensors[0].shape[dim]

        def part(value, row, start, end):
            long = isinstance(value, torch.Tensor) and value.ndim > max(dim, 1)
            long = long and (value.shape[0], value.shape[dim]) == (batch, length)
            return value[row : row + 1].narrow(dim, start, end - start) if long else value

        rows = []
        for row in range(batch):
            outputs = []
            for start, end in _spans(boundaries, row, length):
                cut = [part(value, row, start, end) for value in tensors]
                output = function(*cut, **{name: part(value, row, start, end) for name, value in named.items()})
                if output is None:  # there is no torch code of the fused kernel, so mixers do without it
                    return None
                outputs.append(output if isinstance(output, tuple) else (output, None))
            rows.append(torch.cat([output for output, _ in outputs], dim))
        # Whoever asks for a state besides has one row.
        return (torch.cat(rows), outputs[-1][1]) if isinstance(output, tuple) else torch.cat(rows)

    return kernel


def _spans(boundaries: torch.Tensor, row: int, length: int) -> list[tuple[int, int]]:
    """(start, end) of each sequence in a row, from `seq_idx` [B, length] or, of one row alone, from `cu_seqlens`."""
    if boundaries.ndim == 2:
        starts = [0, *(boundaries[row].diff().nonzero()[:, 0] + 1).tolist()]
    else:
        starts = boundaries[:-1].tolist()
    return list(zip(starts, [*starts[1:], length], strict=True))
