# SPDX-License-Identifier: Apache-2.0
"""A decoding step in batched operations of torch. On a GPU no shape depends on the lengths, so nothing waits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..hashing import hashed_scores
from ..options import SpanOptions
from ..selection import rank, summarize_blocks
from ..state import DecodeTensors


def span_decode(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kept: DecodeTensors,
    options: SpanOptions,
    scale: float,
) -> Tensor:
    """One step: append the token, choose blocks, attend to them and to the own chunk so far."""
    key_cache, value_cache, queries, summaries, unit_sum, previous_sum, lengths = kept
    heads, capacity = key_cache.shape[1:3]
    position = lengths.long()
    row = torch.arange(len(position), device=query.device)
    key_cache[row, :, position] = key[:, :, 0]
    value_cache[row, :, position] = value[:, :, 0]
    queries[row, :, position % queries.shape[2]] = query[:, :, 0]
    lengths += 1

    # The own chunk so far. Where a row has less than is read, it reads the chunk's first token instead, unweighted.
    first = position // options.chunk_size * options.chunk_size
    tokens = min(options.chunk_size, capacity) if query.is_cuda else int((position - first).max()) + 1
    token = first[:, None] + torch.arange(tokens, device=query.device)
    visible = token <= position[:, None]
    token = token.where(visible, first[:, None])[:, None].expand(-1, heads, -1)
    visible = visible[:, None].expand(-1, heads, -1)

    if options.retrieves:
        if options.retrieval == "relevance":
            _add_to_sums(query, unit_sum, previous_sum, position, options)
            _close_block(kept, position, options, scale)
            pooled = previous_sum if options.chooses_for_next else unit_sum
            scores = (summaries @ pooled[..., None]).squeeze(3).transpose(0, 1)
        else:
            unit, index = position // options.unit_size, torch.arange(capacity, device=query.device)
            blocks = index[: capacity // options.block_size]
            scores = hashed_scores(options.seed, index[:heads, None, None], unit[:, None], blocks)
        blocks = rank(scores, first // options.block_size, options.top_k).transpose(0, 1)  # [B, Hkv, top_k]
        within = torch.arange(options.block_size, device=query.device)
        retrieved = (blocks.clamp(min=0)[..., None] * options.block_size + within).flatten(2)
        token = torch.cat([retrieved, token], dim=2)
        visible = torch.cat([(blocks >= 0).repeat_interleave(options.block_size, dim=2), visible], dim=2)

    index = token[..., None].expand(-1, -1, -1, query.shape[3])
    k, v = key_cache.gather(2, index), value_cache.gather(2, index)
    grouped = query.squeeze(2).unflatten(1, (heads, -1))  # the heads of a group are the rows of one problem
    attended = scaled_dot_product_attention(grouped, k, v, attn_mask=visible[:, :, None], scale=scale)
    return attended.flatten(1, 2)[:, :, None]


def _add_to_sums(query: Tensor, unit_sum: Tensor, previous_sum: Tensor, position: Tensor, options: SpanOptions):
    new = query.squeeze(2).unflatten(1, (unit_sum.shape[1], -1)).sum(dim=2, dtype=unit_sum.dtype)
    opens = (position % options.unit_size == 0)[:, None, None]
    previous_sum.copy_(torch.where(opens, unit_sum, previous_sum))
    unit_sum.copy_(torch.where(opens, new, unit_sum + new))


def _close_block(kept: DecodeTensors, position: Tensor, options: SpanOptions, scale: float):
    """Store the summary of the block in progress where this token completes it."""
    size = options.block_size
    row, block = torch.arange(len(position), device=position.device), position // size
    token = block[:, None] * size + torch.arange(size, device=position.device)
    stored = ((kept.queries, token % kept.queries.shape[2]), (kept.key_cache, token), (kept.value_cache, token))
    tokens = (x[row[:, None], :, at].transpose(1, 2) for x, at in stored)
    summary = summarize_blocks(*tokens, 1, options, scale)[:, :, 0]
    closes = ((position + 1) % size == 0)[:, None, None]
    kept.summaries[row, :, block] = torch.where(closes, summary, kept.summaries[row, :, block])
