# SPDX-License-Identifier: Apache-2.0
"""One run: random tensors, and the pass over them that is timed or checked."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .methods import Attend

PASSES = ("forward", "backward", "forward+backward")
# Length of the vector that queries and the keys of a sink share: its score is well above what others reach together.
_LIKING = 4.0


def random_tensors(
    heads: int, kv_heads: int, length: int, head_dim: int, dtype: torch.dtype, device: str
) -> list[Tensor]:
    """Query, key, value and output gradient, standard normal, a batch of one, laid out as a model has them."""
    generator = torch.Generator(device).manual_seed(length)
    tensors = []
    for count in (heads, kv_heads, kv_heads, heads):
        drawn = torch.randn(1, length, count, head_dim, generator=generator, dtype=torch.float32, device=device)
        tensors.append(drawn.to(dtype).transpose(1, 2))
    return tensors


def sink_tensors(block_size: int, *sizes) -> list[Tensor]:
    """`random_tensors` of these sizes, but all queries like the first block, as they do a text's first tokens.

    So every unit chooses it, by its keys or by its values: the longest list of readers that a block can have.
    """
    query, key, value, grad = random_tensors(*sizes)
    liked = _LIKING * torch.nn.functional.normalize(torch.ones_like(query[0, 0, 0]), dim=0)
    for x in (key, value):
        x[:, :, :block_size] += liked
    return [query + liked, key, value, grad]


def prepare(pass_name: str, attend: Attend, tensors: list[Tensor]) -> Callable[[], object]:
    """Make one pass ready to be timed; for "backward" the forward pass is run here."""
    *inputs, grad = tensors
    if pass_name == "forward":
        return torch.no_grad()(lambda: attend(*inputs))
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    if pass_name == "forward+backward":
        return lambda: torch.autograd.grad(attend(*leaves), leaves, grad)
    output = attend(*leaves)
    return lambda: torch.autograd.grad(output, leaves, grad)


def output_and_gradients(attend: Attend, tensors: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of query, key and value."""
    *inputs, grad = tensors
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = attend(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]
