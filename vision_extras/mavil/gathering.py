# SPDX-License-Identifier: Apache-2.0
"""Embeddings of every process's clips, through which gradients flow back to the process that each came from."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

__all__ = ["everyones"]


def everyones(mine: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes; each must call this, and may have another number of them.

    Args:
        mine: [b, ...], this process's.

    Returns:
        [B, ...], and the number of this process's first row among them.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return mine, 0
    counts = [torch.zeros((), dtype=torch.long, device=mine.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor(len(mine), device=mine.device))
    counts = [int(count) for count in counts]
    # Collectives take tensors of one size.
    padded = F.pad(mine.flatten(1), (0, 0, 0, max(counts) - len(mine)))
    parts = _Gathered.apply(padded).split(max(counts))
    everyone = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    return everyone.unflatten(1, mine.shape[1:]), sum(counts[: dist.get_rank()])


class _Gathered(torch.autograd.Function):
    """All processes' tensors one after another; torch's own is deprecated, and its successor private."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
