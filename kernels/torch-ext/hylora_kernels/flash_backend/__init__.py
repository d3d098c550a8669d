# SPDX-License-Identifier: Apache-2.0
"""A fast path on GPUs without kernels of our own: a few calls of flash attention on runs of tokens.

Own chunks are one call, retrieved blocks another, merged by their log-sum-exp. A sliding window is one call, shifted
sparse attention two. On other devices the same code runs on plain operations, for tests.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import List, Optional, Tuple, Union

import torch
from torch import Tensor

from ..cached import cached_tables
from ..devices import device_without_kernels
from ..inputs import accumulation_dtype
from ..layout import SequenceLayout
from ..options import SpanOptions, group_size
from ..saved import Saved
from ..scoring import Scoring
from ..torch_backend import select_blocks
from .retrieved import add_retrieved_backward, retrieved_forward
from .tokens import put_tokens, take_tokens
from .varlen import Runs, varlen_backward, varlen_forward

__all__ = [
    "select_blocks",
    "shifted_sparse_backward",
    "shifted_sparse_forward",
    "sliding_window_backward",
    "sliding_window_forward",
    "span_backward",
    "span_forward",
    "unsupported",
]


def unsupported(
    work: str, query: Tensor, options: Optional[SpanOptions], softcap: Optional[float] = None
) -> Optional[str]:
    """Why flash attention cannot do this, or None if it can."""
    head_dim = query.shape[-1]
    if work == "decode":
        return "flash attention has no decoding step"
    if work == "blocks":
        return "flash attention is not handed blocks"
    if softcap is not None:
        return f"torch's flash attention has no bound of the scores, and softcap={softcap}"
    if query.device.type != "cuda":
        return f"it lies on {query.device.type}, and flash attention runs on CUDA"
    if query.dtype not in (torch.float16, torch.bfloat16):
        return f"its dtype is {query.dtype}, and flash attention takes torch.float16 and torch.bfloat16"
    if head_dim % 8 or head_dim > 256:
        return f"head_dim={head_dim} is not a multiple of 8 up to 256"
    return device_without_kernels(query.device)


def span_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SequenceLayout,
    options: SpanOptions,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor, Tensor]:
    """The output, the log-sum-exp `[B, Hq, L]`, and the blocks `[Hkv, units, top_k]` int32 of one sequence after the
    other."""
    blocks = _choose(query, key, value, layout, options, scoring.scale)
    q, k, v = (take_tokens(x, layout) for x in (query, key, value))
    output, lse = varlen_forward(q, k, v, _chunks(layout, options.chunk_size, query.device), True, scoring.scale)
    lse = lse.T.contiguous()
    for at, part_output, part_lse in retrieved_forward(q, k, v, blocks, layout, options, scoring.scale):
        own = lse[at]
        share = torch.sigmoid(part_lse - own)[..., None]
        output[at] = torch.lerp(output[at].to(lse.dtype), part_output.to(lse.dtype), share).to(output.dtype)
        lse[at] = torch.logaddexp(own, part_lse)
    return put_tokens(output, layout), put_tokens(lse, layout), blocks.to(torch.int32)


def span_backward(
    grad: Tensor,
    saved: Saved,
    layout: SequenceLayout,
    options: SpanOptions,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from what `span_forward` gave."""
    grad, *tensors = (take_tokens(x, layout) for x in (grad, *saved[:5]))
    *whole, lse = tensors
    own = varlen_backward(grad, *whole, lse.T, _chunks(layout, options.chunk_size, grad.device), True, scoring.scale)
    grads = [x.to(lse.dtype) for x in own]
    add_retrieved_backward(grads, grad, Saved(*tensors, saved.blocks.long()), layout, options, scoring.scale)
    return tuple(put_tokens(x.to(grad.dtype), layout) for x in grads)


def sliding_window_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SequenceLayout,
    window: int,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor]:
    """The output and the log-sum-exp `[B, Hq, L]`."""
    runs = _chunks(layout, layout.length, query.device)
    tokens = [take_tokens(x, layout) for x in (query, key, value)]
    output, lse = varlen_forward(*tokens, runs, True, scoring.scale, window)
    return put_tokens(output, layout), put_tokens(lse.T, layout)


def sliding_window_backward(
    grad: Tensor,
    saved: Saved,
    layout: SequenceLayout,
    window: int,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from what `sliding_window_forward` gave."""
    runs = _chunks(layout, layout.length, grad.device)
    *tokens, lse = (take_tokens(x, layout) for x in (grad, *saved[:5]))
    return tuple(put_tokens(x, layout) for x in varlen_backward(*tokens, lse.T, runs, True, scoring.scale, window))


def shifted_sparse_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SequenceLayout,
    group: Union[int, float],
    scoring: Scoring,
) -> Tuple[Tensor, Tensor]:
    """The output and the log-sum-exp `[B, Hq, L]`."""
    q, k, v = (take_tokens(x, layout) for x in (query, key, value))
    outputs, sums = [], []
    for heads, kv_heads, runs in _pieces(layout, group, query.shape[1], key.shape[1], query.device):
        output, lse = varlen_forward(q[:, heads], k[:, kv_heads], v[:, kv_heads], runs, True, scoring.scale)
        outputs.append(output)
        sums.append(lse)
    return put_tokens(torch.cat(outputs, dim=1), layout), put_tokens(torch.cat(sums).T, layout)


def shifted_sparse_backward(
    grad: Tensor,
    saved: Saved,
    layout: SequenceLayout,
    group: Union[int, float],
    scoring: Scoring,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from what `shifted_sparse_forward` gave."""
    g, q, k, v, o, lse = (take_tokens(x, layout) for x in (grad, *saved[:5]))
    grads = [torch.zeros_like(x, dtype=accumulation_dtype(x.dtype)) for x in (q, k, v)]
    for heads, kv_heads, runs in _pieces(layout, group, q.shape[1], k.shape[1], q.device):
        keys, values = k[:, kv_heads], v[:, kv_heads]
        shares = varlen_backward(
            g[:, heads], q[:, heads], keys, values, o[:, heads], lse[:, heads].T, runs, True, scoring.scale
        )
        grads[0][:, heads] = shares[0].to(grads[0].dtype)
        for total, share in zip(grads[1:], shares[1:]):
            total[:, kv_heads] += share
    return tuple(put_tokens(x.to(grad.dtype), layout) for x in grads)


def _choose(
    query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout, options: SpanOptions, scale: float
) -> Tensor:
    """The blocks `[Hkv, units, top_k]` of one sequence after the other; those within a chunk have none to choose."""
    longer = tuple(sequence for sequence in layout.sequences if sequence[2] > options.chunk_size)
    found = iter(select_blocks(query, key, value, replace(layout, sequences=longer), options, scale))
    chosen = [key.new_empty((key.shape[1], 0, options.top_k), dtype=torch.int64)]
    # However many sequences follow each other that choose nothing, it takes one operation.
    for chooses, run in groupby(layout.sequences, key=lambda sequence: sequence[2] > options.chunk_size):
        if chooses:
            chosen += [next(found) for _ in run]
        else:
            units = sum(options.units(length) for _, _, length in run)
            chosen.append(key.new_full((key.shape[1], units, options.top_k), -1, dtype=torch.int64))
    return torch.cat(chosen, dim=1)


@cached_tables
def _chunks(layout: SequenceLayout, size: int, device: torch.device) -> Runs:
    lengths = [tokens for _, _, length in layout.sequences for tokens in _cut(length, size)]
    return Runs.of(lengths, lengths, device)


@cached_tables
def _pieces(
    layout: SequenceLayout, group: Union[int, float], heads: int, kv_heads: int, device: torch.device
) -> Tuple[Tuple[slice, slice, Runs], ...]:
    """Query heads, the KV heads that serve them, and the grid of groups that they attend in."""
    plain, shifted = [], []
    for _, _, length in layout.sequences:
        size = group_size(group, length)
        half = min(size // 2, length)
        plain += _cut(length, size)
        shifted += ([half] if half else []) + _cut(length - half, size)
    grids = [Runs.of(lengths, lengths, device) for lengths in (plain, shifted)]
    shared, middle = heads // kv_heads, heads // 2
    # A KV head whose query heads fall into both halves serves each of them by itself.
    before, after = middle // shared, -(-middle // shared)
    cuts = sorted({0, before * shared, middle, after * shared, heads})
    return tuple(
        (slice(first, last), slice(first // shared, -(-last // shared)), grids[first >= middle])
        for first, last in zip(cuts, cuts[1:])
    )


def _cut(length: int, size: int) -> List[int]:
    """The lengths of the pieces of a stretch of tokens, the last one possibly shorter."""
    return [min(size, length - first) for first in range(0, length, size)]
