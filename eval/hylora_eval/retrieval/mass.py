# SPDX-License-Identifier: Apache-2.0
"""Where full attention looks: its weights, and how much of them lies on each block."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hylora_eval.retrieval.capture import AttentionCall
from hylora_kernels.options import SpanOptions, accumulation_dtype

__all__ = ["attention_weights", "block_mass", "candidates", "query_slices"]

# Attention weights that exist at one time, on a CPU; elsewhere more of them are faster.
_SLICE = {"cpu": 1 << 22}


def candidates(positions: Tensor, options: SpanOptions) -> Tensor:
    """How many blocks the tokens at these positions can choose from [N]."""
    return positions // options.chunk_size * options.chunk_size // options.block_size


def query_slices(call: AttentionCall, positions: Tensor) -> Iterator[Tensor]:
    """Positions [N] on the keys' device in slices, so that attention weights need bounded memory."""
    heads, length, _ = call.query.shape
    step = max(1, _SLICE.get(call.key.device.type, 1 << 26) // (heads * length))
    return iter(positions.to(call.key.device).split(step))


def attention_weights(call: AttentionCall, query: Tensor, positions: Tensor) -> Tensor:
    """Full causal attention of queries: the mean over those of each KV head, [Hkv, N, L] in float32 or more.

    Args:
        call: of a layer, for its keys.
        query: of tokens [Hq, N, D].
        positions: up to which each sees the keys [N].
    """
    heads, length, _ = call.key.shape
    dtype = accumulation_dtype(call.key.dtype)
    query, key = query.to(dtype).unflatten(0, (heads, -1)), call.key.to(dtype)
    future = torch.arange(length, device=key.device) > positions[:, None]
    return (query @ key[:, None].mT).mul_(call.scale).masked_fill_(future, float("-inf")).softmax(dim=-1).mean(dim=1)


def block_mass(weights: Tensor, positions: Tensor, options: SpanOptions) -> Tensor:
    """Share of full attention on each candidate block [Hkv, N, blocks]; 0 on blocks that are no candidates.

    Args:
        weights: of the tokens [Hkv, N, L].
        positions: of the tokens [N].
        options: the blocks and chunks.
    """
    blocks = weights.shape[2] // options.block_size
    shares = weights[..., : blocks * options.block_size].unflatten(2, (blocks, options.block_size)).sum(dim=3)
    later = torch.arange(blocks, device=weights.device) >= candidates(positions, options)[:, None]
    return shares.masked_fill_(later, 0)
