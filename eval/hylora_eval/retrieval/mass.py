# SPDX-License-Identifier: Apache-2.0
"""Where full attention looks: its weights, and how much of them lies on each block and on the needles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from hylora_eval.retrieval.capture import AttentionCall
from hylora_eval.retrieval.needles import NeededBlocks
from hylora_kernels.inputs import accumulation_dtype
from hylora_kernels.options import SpanOptions

# A needle counts as attended if at least this share of full attention's weight lies on it.
ATTENDED = 0.1
# Keys of a block that count as its outliers.
FARTHEST = 3

__all__ = ["NeedleAttention", "attention_weights", "block_mass", "candidates", "query_slices"]

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


@dataclass(frozen=True, eq=False)
class NeedleAttention:
    """Full attention of the tokens that ask to their needles: [Hkv, N] each.

    Attributes:
        finds: whether a needle is attended.
        tokens: position of its token with most weight.
    """

    finds: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, call: AttentionCall, needed: NeededBlocks) -> NeedleAttention:
        """In one layer of one sample."""
        shares, tokens = [torch.zeros(len(call.key), 0)], [torch.zeros(len(call.key), 0, dtype=torch.long)]
        for part in query_slices(call, torch.arange(len(needed.queries))):
            queries, starts, stops = (at.to(part.device)[part] for at in (needed.queries, needed.starts, needed.stops))
            weights = attention_weights(call, call.query[:, queries], queries)
            places = torch.arange(weights.shape[2], device=part.device)
            weights *= (places >= starts[:, None]) & (places < stops[:, None])
            shares.append(weights.sum(dim=2).cpu())
            tokens.append(weights.argmax(dim=2).cpu())
        return cls(torch.cat(shares, dim=1) >= ATTENDED, torch.cat(tokens, dim=1))

    def outliers(self, key: Tensor, block_size: int) -> Tensor:
        """Attended needles whose key is among the `FARTHEST` from the mean of its block: a count [Hkv].

        Args:
            key: of the sequence [Hkv, L, D].
            block_size: tokens of a block.
        """
        keys = key.float()[:, : key.shape[1] // block_size * block_size].unflatten(1, (-1, block_size))
        distances = (keys - keys.mean(dim=2, keepdim=True)).square().sum(dim=3)
        farthest = distances.topk(min(FARTHEST, block_size), dim=2).indices
        stands_out = torch.zeros_like(distances, dtype=torch.bool).scatter_(2, farthest, True).flatten(1)
        stands_out = pad(stands_out, (0, block_size)).cpu()
        return (stands_out.gather(1, self.tokens) & self.finds).sum(dim=1)
