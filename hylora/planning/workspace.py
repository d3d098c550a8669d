# SPDX-License-Identifier: Apache-2.0
"""Memory inside the attention kernels of a GPU, which no tensor shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from torch import Tensor

from hylora.planning.operations import is_attention
from hylora_kernels.options import SpanOptions, summary_width

__all__ = ["kernel_workspace"]

# Of the Triton kernels, which may not be importable here: numbers that temporaries hold at most, and tokens of units
# that read their blocks themselves instead of in pairs with them.
_SLICE, _TILE = 1 << 27, 32


def kernel_workspace(func: Callable, args: tuple) -> int:
    """Bytes that an operator allocates inside on a GPU: Triton for span-expanded attention, flash for all others.

    Args:
        func: an overload of `torch.ops`.
        args: of the call.
    """
    if not is_attention(func):
        return 0
    name = func._overloadpacket.__name__
    query, key = _argument(func, args, "query"), _argument(func, args, "key")
    if name.startswith("span"):
        options = SpanOptions(**{field.name: _argument(func, args, field.name) for field in fields(SpanOptions)})
        return (_span_backward if name.endswith("backward") else _span_forward)(query, key, options)
    if not name.endswith("backward"):
        return 0
    # The gradient of the queries is summed in float32, and grouped key heads get a gradient per query head.
    grouped = query.shape[1] != key.shape[1]
    return query.numel() * (4 + 2 * query.element_size() * grouped)


def _span_forward(query: Tensor, key: Tensor, options: SpanOptions) -> int:
    # Summaries of blocks, and in float32 the features of those who choose.
    width = summary_width(options, key.shape[-1])
    vectors = key.numel() // key.shape[-1]
    summaries = (2 if options.summary_dtype == "bfloat16" else 4) * width * vectors // options.block_size
    choosing = summaries + 4 * min(_SLICE, width * vectors // options.unit_size)
    pairs = _pairs(query, options)
    return max(choosing, pairs * query.element_size() + 4 * pairs // query.shape[-1])


def _span_backward(query: Tensor, key: Tensor, options: SpanOptions) -> int:
    # Two numbers of each query, in float32.
    workspace = 2 * 4 * query.numel() // query.shape[-1]
    if pairs := _pairs(query, options):
        # The KV heads at a time: their gradients, and those of a last run of each block, in float32.
        heads = max(1, key.shape[1] * pairs // (query.numel() * options.top_k))
        workspace += 4 * 4 * key.numel() * heads // key.shape[1]
        rows = 512 if query.element_size() == 2 else 128
        workspace += pairs * query.element_size() + 2 * 4 * options.block_size * pairs // rows
    return workspace


def _pairs(query: Tensor, options: SpanOptions) -> int:
    """Numbers in what the pairs of small units and their blocks give, at a time."""
    small = options.unit_size < min(_TILE, options.chunk_size)
    reads = options.retrieves and query.shape[2] > options.chunk_size
    return min(_SLICE, query.numel() * options.top_k) if small and reads else 0


def _argument(func: Callable, args: tuple, name: str) -> Any:
    """The argument of a name, of a call by position."""
    return next(value for known, value in zip(func._schema.arguments, args, strict=False) if known.name == name)
