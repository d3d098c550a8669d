# SPDX-License-Identifier: Apache-2.0
"""Decoding in batched operations of torch."""

from __future__ import annotations

from typing import Tuple

import torch
from torch import Tensor

from ..hashing import hashed_scores
from ..kept import DecodeTensors
from ..layout import SequenceLayout
from ..options import SpanOptions
from ..plain import masked_softmax
from ..scoring import Scoring
from ..selection import block_scores, query_features, rank, summarize_blocks, token_scores
from .extend import extend


def span_decode(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SequenceLayout,
    kept: DecodeTensors,
    options: SpanOptions,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor]:
    """Append new tokens and give their attention and log-sum-exp: of one per row without asking a GPU for lengths."""
    if query.is_cuda and is_step(layout, kept):
        return step(query, key, value, kept, options, scoring)
    return extend(query, key, value, layout, kept, options, scoring)


def is_step(layout: SequenceLayout, kept: DecodeTensors) -> bool:
    """Whether these are one token for each row of a state that is on the device as a whole."""
    return layout.length == 1 and layout.is_dense and not kept.offloaded


def step(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kept: DecodeTensors,
    options: SpanOptions,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor]:
    """One token for each row, in operations whose shapes do not depend on the lengths."""
    heads, capacity = kept.key_cache.shape[1:3]
    position = kept.lengths.long()
    row = torch.arange(len(position), device=query.device)
    kept.key_cache[row, :, position] = key[:, :, 0]
    kept.value_cache[row, :, position] = value[:, :, 0]
    if kept.queries.shape[2]:
        kept.queries[row, :, position % kept.queries.shape[2]] = query[:, :, 0]
    kept.lengths.add_(1)

    # The own chunk so far. Where a row has less than is read, it reads the chunk's first token instead, unweighted.
    first = position // options.chunk_size * options.chunk_size
    token = first[:, None] + torch.arange(min(options.chunk_size, capacity), device=query.device)
    visible = token <= position[:, None]
    token = token.where(visible, first[:, None])[:, None].expand(-1, heads, -1)
    visible = visible[:, None].expand(-1, heads, -1)

    if options.retrieves:
        scores = _scores(query, kept, position, options, scoring.scale)
        blocks = rank(scores, first // options.block_size, options.top_k).transpose(0, 1)  # [B, Hkv, top_k]
        within = torch.arange(options.block_size, device=query.device)
        retrieved = (blocks.clamp(min=0)[..., None] * options.block_size + within).flatten(2)
        token = torch.cat([retrieved, token], dim=2)
        visible = torch.cat([(blocks >= 0).repeat_interleave(options.block_size, dim=2), visible], dim=2)

    index = token[..., None].expand(-1, -1, -1, query.shape[3])
    k, v = kept.key_cache.gather(2, index), kept.value_cache.gather(2, index)
    grouped = query.squeeze(2).unflatten(1, (heads, -1))  # the heads of a group are the rows of one problem
    output, lse = masked_softmax(grouped, k, v, visible[:, :, None], scoring)
    return output.to(query.dtype).flatten(1, 2)[:, :, None], lse.flatten(1, 2)[:, :, None]


def _scores(query: Tensor, kept: DecodeTensors, position: Tensor, options: SpanOptions, scale: float) -> Tensor:
    """How much each row wants each block: `[Hkv, B, blocks]`."""
    heads, blocks = kept.summaries.shape[1:3]
    if options.retrieval == "random":
        index = torch.arange(max(heads, blocks), device=query.device)
        unit = position // options.unit_size
        return hashed_scores(options.seed, index[:heads, None, None], unit[:, None], index[:blocks])
    _close_block(kept, position, options, scale)
    if options.chooses_per_token:
        return token_scores(query, kept.summaries, options, scale).squeeze(2).transpose(0, 1)
    new = query_features(query, heads, options, scale).squeeze(2)
    opens = (position % options.unit_size == 0)[:, None, None]
    unit = kept.sums[:, 0].clone()
    if options.chooses_for_next:
        kept.sums[:, 1] = unit.where(opens, kept.sums[:, 1])
    kept.sums[:, 0] = new.where(opens, unit + new)
    return block_scores(kept.sums[:, -1, :, None], kept.summaries).squeeze(2).transpose(0, 1)


def _close_block(kept: DecodeTensors, position: Tensor, options: SpanOptions, scale: float):
    """Store the summary of the block in progress where this token completes it."""
    size = options.block_size
    row, block = torch.arange(len(position), device=position.device), position // size
    token = block[:, None] * size + torch.arange(size, device=position.device)
    key, value = (x[row[:, None], :, token].transpose(1, 2) for x in (kept.key_cache, kept.value_cache))
    query = key  # which is not read
    if options.summary == "attention":
        query = kept.queries[row[:, None], :, token % kept.queries.shape[2]].transpose(1, 2)
    summary = summarize_blocks(query, key, value, 1, options, scale)[:, :, 0]
    closes = ((position + 1) % size == 0)[:, None, None]
    kept.summaries[row, :, block] = torch.where(closes, summary, kept.summaries[row, :, block])
