# SPDX-License-Identifier: Apache-2.0
"""The public functions: check the input, choose a backend, call it."""

from __future__ import annotations

from typing import Any, List, Optional, Union

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from . import backends, ops, reference, torch_backend
from .inputs import (
    check_comparable,
    check_inputs,
    follow_autocast,
    resize_heads,
    rows_contiguous,
)
from .layout import SequenceLayout
from .options import BACKENDS, SpanOptions, check_choice, check_group, check_integer, span_options
from .saved import Saved
from .scoring import Scoring
from .sinks import add_sinks, check_sinks, sinks_gradient


def span_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    options: Optional[SpanOptions] = None,
    *,
    layout: Union[SequenceLayout, Tensor, None] = None,
    scale: Optional[float] = None,
    softcap: Optional[float] = None,
    sinks: Optional[Tensor] = None,
    backend: str = "auto",
    **changes: Any,
) -> Tensor:
    """Span-expanded attention (SE-Attn): causal attention within a chunk, plus retrieved blocks of the past.

    Each sequence is cut into chunks of `chunk_size` tokens and memory blocks of `block_size` tokens, both from its own
    first token. A query attends, under one softmax, to its own chunk up to itself and to `top_k` complete blocks that
    end at or before the start of that chunk (equations 6.1 to 6.4). Blocks are ranked by the inner product of the
    summed queries with a summary of the block (equations 6.5 and 6.7); ties go to the earlier block. With grouped
    queries, the query heads of one KV head share summaries and choice. No gradient flows through the choice.

    A sequence no longer than `chunk_size` gets full causal attention.

    Args:
        query: `[B, Hq, L, D]`, after rotary embedding; floating.
        key: `[B, Hkv, L, D]`, `Hkv` divides `Hq`; same dtype.
        value: `[B, Hkv, L, Dv]`; same dtype. Other sizes than D take a summary that is made of keys alone.
        options: what is retrieved and for whom; None means the defaults of `SpanOptions`.
        layout: the sequences in the batch; None means every row is one, without padding. A compiled graph may compute
            it as a tensor, in the form of `SequenceLayout.table`.
        scale: factor on the scores; None means 1 / sqrt(D).
        softcap: c, by which a score s becomes `c * tanh(s / c)`; None for none. The choice of blocks knows no bound.
        sinks: `[Hq]`, floating: one logit per query head, of a key with the value 0 in every softmax; None for none.
        backend: "auto", "reference" (plain, quadratic in memory), "torch", "flash" or "triton" (both on GPUs).
        **changes: fields of `SpanOptions` that differ from `options`, as in `block_size=64`.

    Returns:
        `[B, Hq, L, Dv]` in the query's dtype; exact zeros at padded positions.

    Raises:
        ValueError: tensors that do not belong together, or an option out of range.
    """
    options = span_options(options, changes)
    query, key, value = follow_autocast(query, key, value)
    check_inputs(query, key, value, layout)
    check_comparable(query.shape[3], value.shape[3], options)
    plain = softcap is None and sinks is None
    if plain and backend in ("auto", "torch") and not torch.compiler.is_compiling():
        layout = SequenceLayout.of(query, layout)
        if layout.is_dense and layout.length <= options.chunk_size:
            return _full_attention(query, key, value, Scoring.of(query, scale).scale)
    return _attend("span", backend, query, key, value, layout, options, scale, softcap, sinks)


def select_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    options: Optional[SpanOptions] = None,
    *,
    layout: Union[SequenceLayout, Tensor, None] = None,
    scale: Optional[float] = None,
    backend: str = "auto",
    **changes: Any,
) -> List[Tensor]:
    """The memory blocks `span_attention` retrieves for the same arguments.

    Args:
        query, key, value: as in `span_attention`.
        options, layout, scale, backend, changes: likewise. Neither a softcap nor sinks would change the choice.

    Returns:
        For each sequence of the layout an int64 tensor `[Hkv, selections, top_k]` of block indices counted from the
        sequence's start, best first, filled up with -1. Selections are chunks, tokens or groups, as `selection` says.

    Raises:
        ValueError: as `span_attention`.
    """
    options = span_options(options, changes)
    query, key, value = follow_autocast(query, key, value)
    check_inputs(query, key, value, layout)
    check_choice("backend", backend, BACKENDS)
    check_comparable(query.shape[3], value.shape[3], options)
    layout, scale = SequenceLayout.of(query, layout), Scoring.of(query, scale).scale
    query, key, value = resize_heads(max(query.shape[3], value.shape[3]), query, key, value)
    module = reference if backend == "reference" else backends.choose(backend, "select", query, options, layout)
    with torch.autocast(query.device.type, enabled=False):
        return module.select_blocks(query, key, value, layout, options, scale)


def sliding_window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    layout: Union[SequenceLayout, Tensor, None] = None,
    window: int = 4096,
    scale: Optional[float] = None,
    softcap: Optional[float] = None,
    sinks: Optional[Tensor] = None,
    backend: str = "auto",
) -> Tensor:
    """Causal attention to the last `window` tokens: token i sees j with i - window < j <= i within its sequence.

    Args:
        query, key, value, layout, scale, softcap, sinks: as in `span_attention`.
        window: tokens seen, the token itself included.
        backend: "auto", "reference", "torch" or "flash" (on GPUs).

    Returns:
        `[B, Hq, L, Dv]` in the query's dtype; exact zeros at padded positions.

    Raises:
        ValueError: tensors that do not belong together, or an option out of range.
    """
    check_integer("window", window, minimum=1)
    query, key, value = follow_autocast(query, key, value)
    check_inputs(query, key, value, layout)
    return _attend("sliding_window", backend, query, key, value, layout, window, scale, softcap, sinks)


def shifted_sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    layout: Union[SequenceLayout, Tensor, None] = None,
    group: Union[int, float] = 0.25,
    scale: Optional[float] = None,
    softcap: Optional[float] = None,
    sinks: Optional[Tensor] = None,
    backend: str = "auto",
) -> Tensor:
    """Shifted sparse attention (S2-Attn of LongLoRA), without its look into the future.

    Each sequence is cut into groups. The first `Hq // 2` query heads attend causally within their group; the other
    heads do so on a grid shifted by half a group, whose first and last half groups stand alone. The rolled original
    joins those two, so that the first tokens see the last ones.

    Args:
        query, key, value, layout, scale, softcap, sinks: as in `span_attention`.
        group: tokens per group (an int), or a fraction of the sequence's own length (a float in (0, 1], rounded up).
        backend: "auto", "reference", "torch" or "flash" (on GPUs).

    Returns:
        `[B, Hq, L, Dv]` in the query's dtype; exact zeros at padded positions.

    Raises:
        ValueError: tensors that do not belong together, or an option out of range.
    """
    check_group(group)
    query, key, value = follow_autocast(query, key, value)
    check_inputs(query, key, value, layout)
    return _attend("shifted_sparse", backend, query, key, value, layout, group, scale, softcap, sinks)


def _full_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention by torch itself."""
    grouped = query.shape[1] != key.shape[1]
    with torch.autocast(query.device.type, enabled=False):
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)


def _attend(
    kind: str,
    backend: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Union[SequenceLayout, Tensor, None],
    option: Union[SpanOptions, int, float],
    scale: Optional[float],
    softcap: Optional[float],
    sinks: Optional[Tensor],
) -> Tensor:
    """Compute where torch is to see the operations, or else call the operator that stands for them."""
    check_choice("backend", backend, BACKENDS)
    check_sinks(sinks, query)
    settings = option, Scoring.of(query, scale, softcap)
    value_dim = value.shape[3]
    query, key, value = resize_heads(max(query.shape[3], value_dim), query, key, value)
    if backend != "reference" and not backends.shows_operations(backend, query):
        attend = getattr(ops, f"{kind}_attention")
        output = attend(query, key, value, sinks, layout, *settings, backend)
    else:
        layout = SequenceLayout.of(query, layout)
        with torch.autocast(query.device.type, enabled=False):
            if backend == "reference":
                output = getattr(reference, f"{kind}_attention")(query, key, value, layout, *settings, sinks)
            else:
                output = _Shown.apply(*map(rows_contiguous, (query, key, value)), sinks, kind, layout, *settings)
    return resize_heads(value_dim, output)[0]


class _Shown(torch.autograd.Function):
    """The torch backend's forward and backward, into which torch looks."""

    @staticmethod
    def forward(ctx, query, key, value, sinks, kind, layout, *settings):
        output, lse, *kept = getattr(torch_backend, f"{kind}_forward")(query, key, value, layout, *settings)
        output, lse = add_sinks(output, lse, sinks, layout)
        ctx.save_for_backward(sinks, query, key, value, output, lse, *kept)
        ctx.compute, ctx.settings = getattr(torch_backend, f"{kind}_backward"), (layout, *settings)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        sinks, *tensors = ctx.saved_tensors
        saved, settings = Saved(*tensors), ctx.settings
        grads = ctx.compute(rows_contiguous(grad), saved, *settings)
        wanted = sinks if ctx.needs_input_grad[3] else None
        return (*grads, sinks_gradient(grad, saved, wanted), None, *(None for _ in settings))
