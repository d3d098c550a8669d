# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations and hidden memory of single operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from hylora.planning.long_attention import is_long_attention, long_attention_operations, long_attention_workspace

__all__ = ["attention_operations", "count_operations", "is_attention", "kernel_workspace", "without_kernel"]

_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
_GROUPED = torch.ops.aten._grouped_mm.default


def count_operations(func: Callable, args: tuple, kwargs: dict[str, Any], output: Any) -> int:
    """Operations of one operator: two per multiplication and addition of a matrix product or convolution, else none.

    Args:
        func: an overload of `torch.ops`.
        args, kwargs, output: of the call.
    """
    if func is _FLASH:
        query, key, _, _, causal = (*args, 0.0, False)[:5]
        return _flash(query, key, causal, products=2)
    if func is _FLASH_BACKWARD:
        _, query, key, _, _, _, _, causal = args[:8]
        # Gradients are four products; the scores are made once more.
        return _flash(query, key, causal, products=5)
    if is_long_attention(func):
        return long_attention_operations(func, args)
    if func is _GROUPED:
        # Mixture of experts: each row, or each column, belongs to one expert.
        first, second = args[:2]
        return 2 * first.numel() * second.shape[-1] if first.ndim == 2 else 2 * second.numel() * first.shape[-2]
    formula = flop_registry.get(func._overloadpacket)
    return 0 if formula is None else formula(*args, **kwargs, out_val=output)


def attention_operations(heads_width: int, length: int) -> int:
    """Operations of full causal attention on one sequence, forward: each token sees itself and what is before it.

    Args:
        heads_width: query heads times head dimension.
        length: tokens.
    """
    return 2 * heads_width * length * (length + 1)


def is_attention(func: Callable) -> bool:
    """Whether an operator is the softmax attention itself, forward or backward."""
    return func in (_FLASH, _FLASH_BACKWARD) or is_long_attention(func)


def without_kernel(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """The result, without values, of an operator that torch's tensors without storage know in some types only.

    Args:
        func: an overload of `torch.ops`.
        args, kwargs: of the call.

    Returns:
        A tensor of the right shape and type, or None for all other operators.
    """
    if func is not _GROUPED:
        return None
    first, second, *rest = args
    offsets = rest[0] if rest else kwargs.get("offs")
    shape = [first.shape[-2], second.shape[-1]]
    if first.ndim == second.ndim:
        shape = [len(offsets) if first.ndim == 2 else len(first), *shape]
    return first.new_empty(shape, dtype=kwargs.get("out_dtype") or first.dtype)


def kernel_workspace(func: Callable, args: tuple) -> int:
    """Bytes that attention on a GPU allocates inside.

    In the backward pass of torch's flash attention the gradient of the queries is summed in float32, and grouped key
    heads get a gradient per query head.
    """
    if is_long_attention(func):
        return long_attention_workspace(func, args)
    if func is not _FLASH_BACKWARD:
        return 0
    _, query, key = args[:3]
    size = query.numel() * 4
    if query.shape[1] != key.shape[1]:
        size += 2 * query.numel() * query.element_size()
    return size


def _flash(query: Tensor, key: Tensor, causal: bool, products: int) -> int:
    batch, heads, rows, width = query.shape
    columns = key.shape[2]
    scores = rows * (rows + 1) // 2 if causal else rows * columns
    return 2 * products * batch * heads * scores * width
