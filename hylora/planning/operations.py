# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of single operators, by torch's table of formulas and those added to it here.

Added are full attention as a CPU runs it, the products of mixtures of experts, and the operators of `hylora_kernels`.
`torch.utils.flop_counter.FlopCounterMode` counts them as well from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula

import hylora_kernels.ops  # noqa: F401  defines the operators
from hylora.attention import SpanConfig
from hylora_kernels.options import group_size

__all__ = ["attention_operations", "count_operations", "is_attention"]

_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
# Products of matrices in attention: two forward; backward four for the gradients, and the scores once more.
_FORWARD, _BACKWARD = 2, 5


def count_operations(func: Callable, args: tuple, kwargs: dict[str, Any], output: Any) -> int:
    """Operations of one operator: two per multiplication and addition of a matrix product or convolution, else none.

    Args:
        func: an overload of `torch.ops`.
        args, kwargs, output: of the call.
    """
    formula = flop_registry.get(func._overloadpacket)
    return 0 if formula is None else formula(*args, **kwargs, out_val=output)


def attention_operations(heads_width: int, length: int, name: str = "full", span: SpanConfig | None = None) -> float:
    """Operations of causal attention on one sequence, forward; those of the choice of blocks are counted elsewhere.

    Args:
        heads_width: query heads times head dimension.
        length: tokens.
        name: "full" (each token sees itself and what is before it), "se_attn", "sw_attn" or "s2_attn".
        span: options of the latter three.
    """
    if name == "full":
        pairs = _triangle(length)
    else:
        pairs = _PAIRS[_OPERATORS[name]](length, **{**vars(span), "chunk_size": max(span.chunk_sizes)})
    return 2 * _FORWARD * heads_width * pairs


def is_attention(func: Callable) -> bool:
    """Whether an operator is the softmax attention itself, forward or backward."""
    return func._overloadpacket in _ATTENTION


def _flash(query: list[int], key: list[int], value: list[int], dropout: float = 0.0, causal: bool = False, **_: Any):
    return _flash_products(_FORWARD, query, key, causal)


def _flash_backward(grad, query, key, value, output, lse, dropout, causal, **_: Any) -> int:
    return _flash_products(_BACKWARD, query, key, causal)


def _flash_products(products: int, query: list[int], key: list[int], causal: bool) -> int:
    batch, heads, rows, width = query
    scores = _triangle(rows) if causal else rows * key[2]
    return 2 * products * batch * heads * scores * width


def _grouped(first: list[int], second: list[int], *_: Any, **__: Any) -> int:
    """Mixture of experts: each row, or each column, belongs to one expert."""
    return 2 * prod(first) * second[-1] if len(first) == 2 else 2 * prod(second) * first[-2]


def _triangle(side: int) -> int:
    return side * (side + 1) // 2


def _span_pairs(length: int, block_size: int, top_k: int, chunk_size: int, retrieval: str, **_: Any) -> int:
    """Pairs of queries and keys in one sequence and head; however blocks are chosen, they are as many."""
    pairs = 0
    for start in range(0, length, chunk_size):
        tokens = min(chunk_size, length - start)
        blocks = min(top_k, start // block_size) if retrieval != "none" else 0
        pairs += _triangle(tokens) + tokens * blocks * block_size
    return pairs


def _window_pairs(length: int, window: int, **_: Any) -> int:
    filling = min(window, length)
    return _triangle(filling) + (length - filling) * window


def _shifted_pairs(length: int, group: float, **_: Any) -> float:
    """The mean over heads, of which half have their groups shifted by half a group."""
    size = group_size(group, length)
    half = min(size // 2, length)
    return (_grid_pairs(length, size) + _triangle(half) + _grid_pairs(length - half, size)) / 2


def _grid_pairs(length: int, size: int) -> int:
    full, rest = divmod(length, size)
    return full * _triangle(size) + _triangle(rest)


def _long(*args: Any, names: list[str], products: int, pairs: Callable[..., float], **_: Any) -> int:
    """The products with keys and values; those of the choice of blocks are counted elsewhere."""
    call = dict(zip(names, args, strict=True))
    batch, heads, length, width = call["query"]
    return int(2 * products * batch * heads * width * pairs(length, **call))


_PAIRS = {"span": _span_pairs, "sliding_window": _window_pairs, "shifted_sparse": _shifted_pairs}
_OPERATORS = {"se_attn": "span", "sw_attn": "sliding_window", "s2_attn": "shifted_sparse"}


def _formulas() -> Iterator[tuple[Any, Callable[..., int]]]:
    """Operators of softmax attention, and their formulas."""
    yield _FLASH, _flash
    yield _FLASH_BACKWARD, _flash_backward
    for name, pairs in _PAIRS.items():
        for products, direction in ((_FORWARD, ""), (_BACKWARD, "_backward")):
            operator = getattr(torch.ops.hylora_kernels, f"{name}_attention{direction}")
            names = [known.name for known in operator.default._schema.arguments]
            yield operator, partial(_long, names=names, products=products, pairs=pairs)


_ATTENTION = dict(_formulas())
for _operator, _formula in {**_ATTENTION, torch.ops.aten._grouped_mm: _grouped}.items():
    # Another version of torch may know some of them.
    if _operator not in flop_registry:
        register_flop_formula(_operator)(_formula)
