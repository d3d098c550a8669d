# SPDX-License-Identifier: Apache-2.0
"""Attention of units of queries to the blocks that each of them retrieved, gathered a bounded number at a time."""

from __future__ import annotations

from functools import lru_cache
from typing import Iterator, List, NamedTuple, Tuple

import torch
from torch import Tensor

from ..layout import SequenceLayout
from ..options import SpanOptions
from .varlen import Runs, varlen_backward, varlen_forward

# Gathered keys hold at most about this many numbers at a time, and a CUDA grid is at most so wide.
_GATHER, _RUNS = 1 << 27, 65535


class Slice(NamedTuple):
    """Some neighbouring units that retrieve, and for each of them one run of queries and one of keys per KV head.

    Attributes:
        queries: `[tokens]`, the queries among the real tokens.
        slots: `[blocks]`, which entries of the flattened `[units * top_k]` choices they read.
        bases: `[blocks]`, the first token of each entry's sequence among the real tokens.
        runs: of all KV heads, one after the other.
    """

    queries: Tensor
    slots: Tensor
    bases: Tensor
    runs: Runs


def retrieved_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    blocks: Tensor,
    layout: SequenceLayout,
    options: SpanOptions,
    scale: float,
) -> Iterator[Tuple[Tensor, Tensor, Tensor]]:
    """For each slice of units its queries' places, their output `[n, H, D]` and log-sum-exp `[n, H]`.

    Query is `[T, H, D]`, key and value are `[T, Hkv, D]`, blocks `[Hkv, units, top_k]`.
    """
    for part in _slices(layout, options, *key.shape[1:], key.device):
        index = _token_index(part, blocks, options.block_size)
        folded = [_fold_queries(query[part.queries], key.shape[1]), _gather(key, index), _gather(value, index)]
        output, lse = varlen_forward(*folded, part.runs, False, scale)
        yield part.queries, _unfold(output, key.shape[1]), _unfold(lse.T, key.shape[1])


def add_retrieved_backward(
    grads: List[Tensor],
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    blocks: Tensor,
    layout: SequenceLayout,
    options: SpanOptions,
    scale: float,
):
    """Add the retrieved keys' share to the gradients of query, key and value; `lse` is `[T, H]`."""
    kv_heads = key.shape[1]
    head = torch.arange(kv_heads, device=key.device)[:, None]
    for part in _slices(layout, options, *key.shape[1:], key.device):
        index = _token_index(part, blocks, options.block_size)
        folded = [_fold_queries(x[part.queries], kv_heads) for x in (grad, query, output, lse)]
        shares = varlen_backward(
            *(folded[0], folded[1], _gather(key, index), _gather(value, index), folded[2], folded[3].T),
            *(part.runs, False, scale),
        )
        # Units do not overlap, blocks do; an accumulating index_put_ adds them up in a fixed order.
        grads[0][part.queries] += _unfold(shares[0], kv_heads)
        for total, share in zip(grads[1:], shares[1:]):
            share = share.unflatten(0, index.shape)[:, :, 0].to(total.dtype)
            total.index_put_((index, head), share, accumulate=True)


def _fold_queries(x: Tensor, kv_heads: int) -> Tensor:
    """`[n, H, ...]` to `[Hkv * n, G, ...]`: a KV head's own queries attend to its own blocks."""
    return x.unflatten(1, (kv_heads, -1)).transpose(0, 1).flatten(0, 1)


def _unfold(x: Tensor, kv_heads: int) -> Tensor:
    """The inverse of `_fold_queries`."""
    return x.unflatten(0, (kv_heads, -1)).transpose(0, 1).flatten(1, 2)


def _gather(x: Tensor, index: Tensor) -> Tensor:
    """Tokens `[Hkv, m]` of `[T, Hkv, D]` as `[Hkv * m, 1, D]`."""
    head = torch.arange(len(index), device=index.device)[:, None]
    return x[index, head].flatten(0, 1)[:, None]


def _token_index(part: Slice, blocks: Tensor, block_size: int) -> Tensor:
    """The keys of a slice among the real tokens, `[Hkv, m]`."""
    first = blocks.flatten(1)[:, part.slots] * block_size + part.bases
    return (first[..., None] + torch.arange(block_size, device=blocks.device)).flatten(1)


@lru_cache(maxsize=16)
def _slices(
    layout: SequenceLayout, options: SpanOptions, kv_heads: int, head_dim: int, device: torch.device
) -> Tuple[Slice, ...]:
    most = max(1, _GATHER // (kv_heads * options.block_size * head_dim))
    found, queries, slots, bases, lengths, counts = [], [], [], [], [], []

    def close():
        if counts:
            keys = [count * options.block_size for count in counts]
            places = (torch.cat(queries), torch.cat(slots), torch.cat(bases))
            found.append(Slice(*(p.to(device) for p in places), Runs.of(lengths * kv_heads, keys * kv_heads, device)))
        for gathered in (queries, slots, bases, lengths, counts):
            gathered.clear()

    unit_number = base = 0
    for _, _, length in layout.sequences:
        for unit in range(options.units(length)):
            count = options.retrieved(unit)
            first = unit * options.unit_size
            if count:
                lengths.append(min(options.unit_size, length - first))
                counts.append(count)
                queries.append(base + first + torch.arange(lengths[-1]))
                slots.append(unit_number * options.top_k + torch.arange(count))
                bases.append(torch.full((count,), base))
                if sum(counts) >= most or (len(counts) + 1) * kv_heads > _RUNS:
                    close()
            unit_number += 1
        base += length
    close()
    return tuple(found)
