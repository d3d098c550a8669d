# SPDX-License-Identifier: Apache-2.0
"""The tensors in which decoding keeps sequences, and how tokens are put there."""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from .options import SpanOptions
from .selection import query_features, summarize_blocks


class DecodeTensors(NamedTuple):
    """What a decoding step reads and changes; `DecodeState` says what it is."""

    key_cache: Tensor
    value_cache: Tensor
    chunk_key: Tensor
    chunk_value: Tensor
    queries: Tensor
    summaries: Tensor
    sums: Tensor
    lengths: Tensor

    def rows(self, rows: slice) -> DecodeTensors:
        """Those of some rows."""
        return DecodeTensors(*(x[rows] for x in self))

    @property
    def offloaded(self) -> bool:
        """Whether keys and values are in the host's memory, and those of the chunk in progress on the device too."""
        return self.chunk_key.shape[2] > 0

    def chunk(self, first: int, last: int) -> Tuple[Tensor, Tensor]:
        """Keys and values of a chunk in progress that starts at `first`, up to `last`."""
        if self.offloaded:
            return self.chunk_key[:, :, : last - first], self.chunk_value[:, :, : last - first]
        return self.key_cache[:, :, first:last], self.value_cache[:, :, first:last]


def store(
    query: Tensor, key: Tensor, value: Tensor, kept: DecodeTensors, before: int, options: SpanOptions, scale: float
) -> Optional[Tensor]:
    """Append tokens to rows that all hold `before` tokens; the lengths are left to the caller.

    Query is `[R, Hq, n, D]`, key and value are `[R, Hkv, n, D]`. Returns the features by which the units that these
    tokens belong to choose, `[R, Hkv, units, W]`, or None where each token chooses by itself.
    """
    after = before + key.shape[2]
    kept.key_cache[:, :, before:after] = key
    kept.value_cache[:, :, before:after] = value
    if kept.offloaded:
        first = (after - 1) // options.chunk_size * options.chunk_size
        start = max(before, first)
        for chunk, x in ((kept.chunk_key, key), (kept.chunk_value, value)):
            chunk[:, :, start - first : after - first] = x[:, :, start - before :]
    if kept.summaries.shape[3]:
        _summarize(query, kept, before, after, options, scale)
    slots = kept.queries.shape[2]
    if slots:
        start = max(before, after - slots)
        kept.queries[:, :, torch.arange(start, after, device=query.device) % slots] = query[:, :, start - before :]
    return _add_to_sums(query, kept.sums, before, options, scale) if kept.sums.shape[1] else None


def _summarize(query: Tensor, kept: DecodeTensors, before: int, after: int, options: SpanOptions, scale: float):
    """Store the summaries of the blocks that these tokens complete."""
    size = options.block_size
    first, last = before // size, after // size
    if first == last:
        return
    tokens = slice(first * size, last * size)
    key, value = (x[:, :, tokens].to(query.device) for x in (kept.key_cache, kept.value_cache))
    if options.summary != "attention":
        query = key  # which is not read
    else:
        earlier = torch.arange(first * size, before, device=query.device) % kept.queries.shape[2]
        query = torch.cat([kept.queries[:, :, earlier], query[:, :, : last * size - before]], dim=2)
    kept.summaries[:, :, first:last] = summarize_blocks(query, key, value, last - first, options, scale)


def _add_to_sums(query: Tensor, sums: Tensor, before: int, options: SpanOptions, scale: float) -> Tensor:
    """Add the features of these tokens to those of their units, and give what the units choose by."""
    size, heads = options.unit_size, sums.shape[2]
    opened = before % size  # tokens that the first of these units has already
    features = query_features(query, heads, options, scale)
    units = -(-(opened + query.shape[2]) // size)
    padding = (0, 0, opened, units * size - opened - query.shape[2])
    totals = torch.nn.functional.pad(features, padding).unflatten(2, (units, size)).sum(dim=3)
    if opened:
        totals[:, :, 0] += sums[:, 0]
    if not options.chooses_for_next:
        sums[:, 0] = totals[:, :, -1]
        return totals
    earlier = sums[:, 1 if opened else 0, :, None]
    totals = torch.cat([earlier, totals], dim=2)
    sums[:, 0], sums[:, 1] = totals[:, :, -1], totals[:, :, -2]
    return totals[:, :, :-1]
