# SPDX-License-Identifier: Apache-2.0
"""Memory inside the attention kernels of a GPU, which no tensor shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hylora.planning.operations import is_attention

__all__ = ["kernel_workspace"]


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
        if name.endswith("backward"):
            # The row sums of gradient and output, in float32.
            return 4 * query.numel() // query.shape[-1]
        # Summaries of blocks and sums of their queries, in float32.
        return 2 * 4 * key.numel() // _argument(func, args, "block_size")
    if not name.endswith("backward"):
        return 0
    # The gradient of the queries is summed in float32, and grouped key heads get a gradient per query head.
    grouped = query.shape[1] != key.shape[1]
    return query.numel() * (4 + 2 * query.element_size() * grouped)


def _argument(func: Callable, args: tuple, name: str) -> Any:
    """The argument of a name, of a call by position."""
    return next(value for known, value in zip(func._schema.arguments, args, strict=False) if known.name == name)
