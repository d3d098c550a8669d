# SPDX-License-Identifier: Apache-2.0
"""Random queries, keys and values, and the comparison of two computations on them."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.tolerances import assert_close


def random_inputs(
    batch: int, heads: int, kv_heads: int, length: int, head_dim: int = 8, dtype=torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Standard normal query, key and value."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, n, length, head_dim) for n in (heads, kv_heads, kv_heads)]
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)


def output_and_gradients(function, inputs, output_gradient: Tensor | None = None, **options) -> list[Tensor]:
    """The output for these inputs, and the gradients of query, key and value for a fixed random output gradient."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    output = function(*leaves, **options)
    if output_gradient is None:
        generator = torch.Generator().manual_seed(1)
        output_gradient = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    output.backward(output_gradient.to(output))
    return [output.detach(), *(x.new_zeros(x.shape) if x.grad is None else x.grad for x in leaves)]


def assert_backends_agree(function, inputs, **options):
    """The torch backend gives the reference's output and gradients."""
    expected = output_and_gradients(function, inputs, backend="reference", **options)
    actual = output_and_gradients(function, inputs, backend="torch", **options)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)


def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention under a boolean mask `[Hq, L, L]` or `[L, L]`, by torch itself."""
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
