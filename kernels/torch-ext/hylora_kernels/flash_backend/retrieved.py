# SPDX-License-Identifier: Apache-2.0
"""Attention of units of queries to the blocks that each of them retrieved, gathered a bounded number at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator, List, NamedTuple, Tuple

import torch
from torch import Tensor

from ..cached import cached_tables
from ..layout import SequenceLayout
from ..options import SpanOptions
from ..saved import Saved
from .varlen import Runs, varlen_backward, varlen_forward

# Keys gathered at a time, in numbers, counted once for every query head: the backward of flash attention writes their
# gradients so, before it adds them up. And runs at a time: a CUDA grid is no wider.
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
    for part in slices_of(query, key, layout, options):
        index = _token_index(part, blocks, options.block_size)
        queries = _fold_queries(query[part.queries], key.shape[1])
        output, lse = varlen_forward(queries, _gather(key, index), _gather(value, index), part.runs, False, scale)
        yield part.queries, _unfold(output, key.shape[1]), _unfold(lse.T, key.shape[1])


def add_retrieved_backward(
    grads: List[Tensor], grad: Tensor, saved: Saved, layout: SequenceLayout, options: SpanOptions, scale: float
):
    """Add the retrieved keys' share to the gradients of query, key and value; here all of them are tokens."""
    query, key, value, output, lse, blocks = saved
    kv_heads = key.shape[1]
    head = torch.arange(kv_heads, device=key.device)[:, None]
    for part in slices_of(query, key, layout, options):
        index = _token_index(part, blocks, options.block_size)
        tokens = (x[part.queries] for x in (grad, query, output, lse))
        own_grad, own_query, own_output, own_lse = (_fold_queries(x, kv_heads) for x in tokens)
        keys, values = _gather(key, index), _gather(value, index)
        shares = varlen_backward(own_grad, own_query, keys, values, own_output, own_lse.T, part.runs, False, scale)
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


def slices_of(query: Tensor, key: Tensor, layout: SequenceLayout, options: SpanOptions) -> Tuple[Slice, ...]:
    """The units that retrieve, a bounded number of them at a time, for query `[T, H, D]` and key `[T, Hkv, D]`."""
    heads, head_dim = query.shape[1:]
    kv_heads = key.shape[1]
    most = min(_GATHER // (heads * options.block_size * head_dim), _RUNS // kv_heads)
    # Random retrieval draws a seed for every layer; the slices of all layers are the same.
    return _slices(layout, replace(options, seed=0), kv_heads, max(1, most), key.device)


@cached_tables
def _slices(
    layout: SequenceLayout, options: SpanOptions, kv_heads: int, most: int, device: torch.device
) -> Tuple[Slice, ...]:
    units, unit_base, base = [], 0, 0
    for _, _, length in layout.sequences:
        for unit in range(options.units(length)):
            first, count = unit * options.unit_size, options.retrieved(unit)
            if count:
                tokens = min(options.unit_size, length - first)
                units.append((base + first, tokens, (unit_base + unit) * options.top_k, count, base))
        unit_base += options.units(length)
        base += length
    units = torch.tensor(units, dtype=torch.int64).reshape(-1, 5)
    # Every unit reads a block or more, so that no slice has more than `most` units.
    numbers = (units[:, 3].cumsum(0) - 1) // most
    sizes = numbers.unique_consecutive(return_counts=True)[1].tolist()
    return tuple(_slice(part, options.block_size, kv_heads, device) for part in units.split(sizes))


def _slice(units: Tensor, block_size: int, kv_heads: int, device: torch.device) -> Slice:
    first, tokens, slot, count, base = units.unbind(1)
    places = (_count_from(first, tokens), _count_from(slot, count), base.repeat_interleave(count))
    keys = (count * block_size).tolist()
    return Slice(*(p.to(device) for p in places), Runs.of(tokens.tolist() * kv_heads, keys * kv_heads, device))


def _count_from(first: Tensor, lengths: Tensor) -> Tensor:
    """`first[0], first[0] + 1, ...`, as many as `lengths[0]`, then from `first[1]` on, and so forth."""
    skipped = first - (lengths.cumsum(0) - lengths)
    return skipped.repeat_interleave(lengths) + torch.arange(int(lengths.sum()))
