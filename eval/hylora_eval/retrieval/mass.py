# SPDX-License-Identifier: Apache-2.0
"""The oracle: where full attention would look, and how much of that the retrieved blocks hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from hylora_kernels.options import SpanOptions, accumulation_dtype
from hylora_kernels.selection import rank

__all__ = ["AttentionMass", "BlockMass", "attention_mass", "block_mass"]

# Attention weights that exist at one time.
_SLICE = {"cpu": 1 << 22, "cuda": 1 << 26}


@dataclass(frozen=True, eq=False)
class AttentionMass:
    """How full attention would share out its weight, by KV head and selection.

    Shares are those of a selection's mean query, over the query heads of the KV head: 1 is all that it attends to.

    Attributes:
        blocks: the oracle's choice, the `top_k` candidates with the largest share: int64 [Hkv, selections, top_k],
            best first, filled up with -1.
        retrieved: share of the blocks that were retrieved [Hkv, selections].
        oracle: share of the oracle's blocks.
        candidates: share of all blocks there were to choose from.
        own_chunk: share of the query's own chunk. The rest to 1 are tokens before it of a block that it cuts in two.
        overlap: share of the oracle's blocks that are among those retrieved; 0 without any candidate.
    """

    blocks: Tensor
    retrieved: Tensor
    oracle: Tensor
    candidates: Tensor
    own_chunk: Tensor
    overlap: Tensor


class BlockMass(NamedTuple):
    """Full attention of one KV head and the selections of one chunk.

    Attributes:
        head: the KV head.
        selections: which selections.
        blocks: share of each candidate [selections, candidates].
        own_chunk: share of the chunk itself [selections].
    """

    head: int
    selections: slice
    blocks: Tensor
    own_chunk: Tensor


@torch.no_grad()
def attention_mass(
    query: Tensor, key: Tensor, blocks: Tensor, options: SpanOptions, scale: float | None = None
) -> AttentionMass:
    """Compare retrieved blocks with those that full attention over the whole causal past would weigh most.

    Args:
        query: of one sequence, after RoPE [Hq, L, D].
        key: [Hkv, L, D].
        blocks: retrieved for it [Hkv, selections, top_k], filled up with -1.
        options: of the layer.
        scale: factor on the scores, None for 1 / sqrt(D).

    Returns:
        The shares, in at least float32, on the key's device. Memory grows with the length, not with its square.
    """
    shares = {
        name: torch.zeros(blocks.shape[:2], dtype=accumulation_dtype(key.dtype), device=key.device)
        for name in ("retrieved", "oracle", "candidates", "own_chunk", "overlap")
    }
    best = torch.full_like(blocks, -1)
    for head, selections, mass, own_chunk in block_mass(query, key, options, scale):
        at = (head, selections)
        shares["own_chunk"][at] = own_chunk
        if mass.shape[1] == 0:
            continue
        counts = torch.full((len(mass),), mass.shape[1], device=key.device)
        best[at] = rank(mass, counts, options.top_k)
        shares["retrieved"][at] = _of_blocks(mass, blocks[at])
        shares["oracle"][at] = _of_blocks(mass, best[at])
        shares["candidates"][at] = mass.sum(dim=1)
        both = (best[at][:, :, None] == blocks[at][:, None]).any(dim=2) & (best[at] >= 0)
        shares["overlap"][at] = both.sum(dim=1, dtype=mass.dtype) / max(1, min(options.top_k, mass.shape[1]))
    return AttentionMass(best, **shares)


def block_mass(query: Tensor, key: Tensor, options: SpanOptions, scale: float | None = None) -> Iterator[BlockMass]:
    """Share of full attention on each block, one chunk and KV head after the other.

    Args:
        query, key, options, scale: as for `attention_mass`.

    Yields:
        The shares of a chunk's selections; no more than a slice of their attention weights exists at one time.
    """
    heads, length, head_dim = key.shape
    scale = 1 / sqrt(head_dim) if scale is None else scale
    dtype = accumulation_dtype(key.dtype)
    for start in range(0, length, options.chunk_size):
        stop = min(start + options.chunk_size, length)
        selection = start // options.unit_size
        candidates = options.candidates(selection)
        for head, queries in enumerate(query.unflatten(0, (heads, -1))):
            blocks, own_chunk = [], []
            for weights in _weights(queries[:, start:stop].to(dtype), key[head, :stop].to(dtype), scale):
                of_blocks = weights[:, : candidates * options.block_size]
                blocks.append(of_blocks.unflatten(1, (candidates, options.block_size)).sum(dim=2))
                own_chunk.append(weights[:, start:].sum(dim=1))
            blocks, own_chunk = (_mean_by_selection(torch.cat(parts), options) for parts in (blocks, own_chunk))
            yield BlockMass(head, slice(selection, selection + len(blocks)), blocks, own_chunk)


def _weights(queries: Tensor, keys: Tensor, scale: float) -> Iterator[Tensor]:
    """Causal attention of the last of L tokens, the mean over heads, in slices of queries [slice, L].

    Args:
        queries: of the last tokens [heads, T, D].
        keys: of all tokens [L, D].
        scale: factor on the scores.
    """
    heads, asking, _ = queries.shape
    places = torch.arange(len(keys), device=keys.device)
    step = max(1, _SLICE.get(keys.device.type, _SLICE["cuda"]) // (heads * len(keys)))
    for part, own in zip(queries.split(step, dim=1), places[-asking:].split(step), strict=True):
        scores = (part @ keys.T * scale).masked_fill_(places > own[:, None], float("-inf"))
        yield scores.softmax(dim=-1).mean(dim=0)


def _mean_by_selection(values: Tensor, options: SpanOptions) -> Tensor:
    """Means [selections, ...] over the queries of each selection; `values` [T, ...] begin with a selection's first."""
    whole = len(values) // options.unit_size
    means = values[: whole * options.unit_size].unflatten(0, (whole, options.unit_size)).mean(dim=1)
    rest = values[whole * options.unit_size :]
    return torch.cat([means, rest.mean(dim=0, keepdim=True)]) if len(rest) else means


def _of_blocks(mass: Tensor, blocks: Tensor) -> Tensor:
    """Sum of the shares [selections, candidates] of blocks [selections, k] that may be filled up with -1."""
    return mass.gather(1, blocks.clamp(min=0)).masked_fill(blocks < 0, 0).sum(dim=1)
