# SPDX-License-Identifier: Apache-2.0
"""Span-expanded attention by Triton kernels: summaries, retrieval, attention, and its backward."""

from __future__ import annotations

from typing import List, Optional, Tuple

import torch
from torch import Tensor

from .. import torch_backend
from ..devices import device_without_kernels
from ..layout import SequenceLayout
from ..options import SpanOptions
from ..saved import Saved
from ..scoring import Scoring
from .backward import attention_backward
from .decode import span_decode
from .forward import attention_forward
from .interpreter import why_not_interpreted
from .launch import capability, has_small_memory, on_its_device
from .own_chunks import own_backward, own_forward
from .retrieval import pool_queries, retrieve
from .summary import summarize_blocks
from .tables import SpanTables, span_tables

__all__ = [
    "block_backward",
    "block_forward",
    "select_blocks",
    "span_backward",
    "span_decode",
    "span_forward",
    "unsupported",
]

_BLOCK_SIZES = (8, 16, 32, 64, 128)
_MOST_BLOCKS = 64
_MOST_DIMENSIONS = 256
# Features of queries that choose take about this many numbers at a time, and those of at least one KV head.
_FEATURES = 1 << 27


def unsupported(
    work: str, query: Tensor, options: Optional[SpanOptions], softcap: Optional[float] = None
) -> Optional[str]:
    """Why the kernels cannot do this, or None if they can."""
    if work not in ("span", "select", "decode", "blocks"):
        return "Triton has no kernel for this attention"
    if work != "blocks" and options.retrieval == "relevance" and options.pools_scores:
        return f"no kernel pools scores, as summary={options.summary!r} with pooling={options.pooling!r} takes it"
    if work == "decode" and options.retrieves and options.retrieval == "random":
        return "random retrieval has no decoding kernel"
    if query.device.type == "cpu" and (reason := why_not_interpreted()) is not None:
        return reason
    if query.device.type not in ("cpu", "cuda"):
        return f"query is on {query.device.type!r}, and the kernels are for CUDA"
    if query.device.type == "cuda" and (reason := device_without_kernels(query.device)) is not None:
        return reason
    # The interpreter computes bfloat16 wrongly without saying so, and cuts off where it should round to it.
    if query.device.type == "cpu" and work != "blocks" and options.summary_dtype == "bfloat16":
        return "Triton's interpreter does not round to summary_dtype='bfloat16', only a GPU does"
    exact = (torch.float16, torch.float32)
    dtypes = exact if query.device.type == "cpu" else (*exact, torch.bfloat16)
    if query.dtype not in dtypes:
        return f"query has dtype {query.dtype}, and the kernels take {', '.join(map(str, dtypes))}"
    if query.shape[-1] % 8 or not 0 < query.shape[-1] <= _MOST_DIMENSIONS:
        return f"head_dim={query.shape[-1]} is not a multiple of 8 up to {_MOST_DIMENSIONS}"
    if query.shape[-1] > _MOST_DIMENSIONS // 2 and has_small_memory(capability(query.device)):
        return f"head_dim={query.shape[-1]} takes more shared memory than the device has; it can take up to 128"
    if options.block_size not in _BLOCK_SIZES:
        return f"block_size={options.block_size} is not one of {', '.join(map(str, _BLOCK_SIZES))}"
    if options.top_k > _MOST_BLOCKS:
        return f"top_k={options.top_k} is more than {_MOST_BLOCKS}"
    return None


@on_its_device
def span_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SequenceLayout,
    options: SpanOptions,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Span-expanded attention, its log-sum-exp `[B, Hq, L]`, and the retrieved blocks `[Hkv, units, top_k]`."""
    tables = span_tables(layout, options, query.device)
    blocks = _choose(query, key, value, layout, options, tables, scoring.scale)
    read = _read(blocks, layout, options)
    own = own_forward(query, key, value, layout, options.chunk_size, scoring)
    output, lse = attention_forward(query, key, value, read, tables, scoring, options.block_size, own=own)
    return output, lse, blocks


@on_its_device
def span_backward(
    grad: Tensor,
    saved: Saved,
    layout: SequenceLayout,
    options: SpanOptions,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value, given what `span_forward` returned."""
    tables = span_tables(layout, options, grad.device)
    saved = saved._replace(blocks=_read(saved.blocks, layout, options))
    own = own_backward(grad, saved, layout, options.chunk_size, scoring)
    return attention_backward(grad, saved, tables, scoring, options.block_size, own=own)


@on_its_device
def block_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    blocks: Tensor,
    layout: SequenceLayout,
    options: SpanOptions,
    own_chunk: bool,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor]:
    """The output and the log-sum-exp `[B, Hq, L]`."""
    tables = span_tables(layout, options, query.device)
    return attention_forward(query, key, value, blocks, tables, scoring, options.block_size, own_chunk)


@on_its_device
def block_backward(
    grad: Tensor,
    lse_grad: Optional[Tensor],
    saved: Saved,
    layout: SequenceLayout,
    options: SpanOptions,
    own_chunk: bool,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, given what `block_forward` returned."""
    tables = span_tables(layout, options, grad.device)
    return attention_backward(grad, saved, tables, scoring, options.block_size, lse_grad, own_chunk)


@on_its_device
def select_blocks(
    query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout, options: SpanOptions, scale: float
) -> List[Tensor]:
    """The retrieved blocks of every sequence."""
    tables = span_tables(layout, options, query.device)
    blocks = _choose(query, key, value, layout, options, tables, scale).long()
    return list(blocks.split([options.units(length) for _, _, length in layout.sequences], dim=1))


def _retrieves(layout: SequenceLayout, options: SpanOptions) -> bool:
    return options.retrieves and layout.longest > options.chunk_size


def _read(blocks: Tensor, layout: SequenceLayout, options: SpanOptions) -> Tensor:
    """The blocks, without those slots that are known to be empty."""
    return blocks if _retrieves(layout, options) else blocks[:, :, :0]


def _choose(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SequenceLayout,
    options: SpanOptions,
    tables: SpanTables,
    scale: float,
) -> Tensor:
    """The blocks that each unit retrieves: `[Hkv, units, top_k]` int32."""
    if not _retrieves(layout, options):
        return torch.full(
            (key.shape[1], tables.units.shape[0], options.top_k), -1, dtype=torch.int32, device=key.device
        )
    if options.retrieval == "random":
        chosen = torch_backend.select_blocks(query, key, value, layout, options, scale)
        return torch.cat(chosen, dim=1).to(torch.int32)
    summaries, query_sums = summarize_blocks(query, key, value, tables, options, scale)
    kv_heads, units, width = key.shape[1], tables.units.shape[0], summaries.shape[2]
    groups, step = query.shape[1] // kv_heads, max(1, _FEATURES // max(1, units * width))
    chosen = []
    for head in range(0, kv_heads, step):
        own = slice(head, min(head + step, kv_heads))
        sums = None if query_sums is None else query_sums[own]
        asking = query[:, own.start * groups : own.stop * groups]
        pooled = pool_queries(asking, sums, own.stop - own.start, tables, options, scale)
        chosen.append(retrieve(pooled, summaries[own], tables, options.top_k))
    return torch.cat(chosen)
