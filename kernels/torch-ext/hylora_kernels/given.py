# SPDX-License-Identifier: Apache-2.0
"""Attention to blocks that the caller chose, with its log-sum-exp: what other ways to retrieve, and sequences spread
over devices, are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import backends, reference
from .inputs import (
    check_inputs,
    follow_autocast,
    resize_heads,
    rows_contiguous,
)
from .layout import SequenceLayout
from .options import BACKENDS, SpanOptions, check_choice, span_options
from .saved import Saved
from .scoring import Scoring
from .sinks import add_sinks, check_sinks, sinks_gradient


def block_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    blocks: Sequence[Tensor],
    options: Optional[SpanOptions] = None,
    *,
    own_chunk: bool = True,
    layout: Optional[SequenceLayout] = None,
    scale: Optional[float] = None,
    softcap: Optional[float] = None,
    sinks: Optional[Tensor] = None,
    backend: str = "auto",
    **changes: Any,
) -> Tuple[Tensor, Tensor]:
    """Attention of each query to given memory blocks and, causally, to its own chunk, under one softmax.

    With the blocks of `select_blocks` the output is that of `span_attention`. Two results of the same queries over
    different keys are put together by `merge_attention`. The values of `blocks` are checked, which waits for a device.

    Args:
        query: `[B, Hq, L, D]`, after rotary embedding; floating.
        key: `[B, Hkv, L, D]`, `Hkv` divides `Hq`; same dtype.
        value: `[B, Hkv, L, Dv]`; same dtype.
        blocks: for each sequence of the layout integers `[Hkv, selections, k]`, as `select_blocks` returns them: of
            the blocks that end at or before the start of the selection's chunk, counted from the sequence's start; in
            any order, none twice, -1 for none. An empty list where there is no sequence, as with L = 0.
        options: of these `block_size`, `chunk_size`, `selection` and `query_group` count.
        own_chunk: whether queries attend to their own chunk up to themselves too.
        layout: the sequences in the batch; None means every row is one, without padding.
        scale: factor on the scores; None means 1 / sqrt(D).
        softcap: c, by which a score s becomes `c * tanh(s / c)`; None for none.
        sinks: `[Hq]`, floating, as in `span_attention`. Of results that are merged one alone is given them.
        backend: "auto", "reference", "torch" or "triton".
        **changes: fields of `SpanOptions` that differ from `options`.

    Returns:
        The output `[B, Hq, L, Dv]` in the query's dtype, and the log-sum-exp `[B, Hq, L]` of each query's scores and
        sink, in at least float32. Queries that see nothing, as at padding, have zeros and -inf. Gradients flow through
        both.

    Raises:
        ValueError: tensors that do not belong together, blocks that are not as above, or an option out of range.
    """
    options = span_options(options, changes)
    query, key, value = follow_autocast(query, key, value)
    check_inputs(query, key, value, layout)
    check_choice("backend", backend, BACKENDS)
    check_sinks(sinks, query)
    layout, scoring = SequenceLayout.of(query, layout), Scoring.of(query, scale, softcap)
    value_dim = value.shape[3]
    query, key, value = resize_heads(max(query.shape[3], value_dim), query, key, value)
    given = _joined(blocks, key, layout, options)
    options = replace(options, top_k=given.shape[2])
    with torch.autocast(query.device.type, enabled=False):
        if backend == "reference":
            units = [options.units(length) for _, _, length in layout.sequences]
            of_sequence = given.split(units, dim=1) if units else []
            settings = layout, options, own_chunk, scoring
            output, lse = reference.block_attention(query, key, value, of_sequence, *settings, sinks)
        else:
            module = backends.choose(backend, "blocks", query, options, softcap=scoring.softcap)
            tensors = map(rows_contiguous, (query, key, value))
            output, lse = _BlockAttention.apply(*tensors, sinks, given, module, layout, options, own_chunk, scoring)
    return resize_heads(value_dim, output)[0], lse


def merge_attention(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> Tuple[Tensor, Tensor]:
    """What queries get from two sets of keys, from what they get from each: exact if no key is in both.

    Args:
        output: `[..., D]`, attention to the one set.
        lse: `[...]`, the log-sum-exp of its scores, -inf where a query has no key.
        other: `[..., D]`, attention to the other set.
        other_lse: likewise.

    Returns:
        Output and log-sum-exp over both, of the same dtypes. Gradients flow through both.
    """
    # Where there is no key at all, differences of infinities and their derivatives would be no numbers.
    blind = (lse == float("-inf")) & (other_lse == float("-inf"))
    own, others = lse.masked_fill(blind, 0), other_lse.masked_fill(blind, 0)
    share = torch.sigmoid(others - own)[..., None]
    merged = torch.lerp(output.to(share.dtype), other.to(share.dtype), share).to(output.dtype)
    return merged, torch.logaddexp(own, others).masked_fill(blind, float("-inf"))


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, sinks, blocks, module, layout, *settings):
        output, lse = module.block_forward(query, key, value, blocks, layout, *settings)
        output, lse = add_sinks(output, lse, sinks, layout)
        ctx.save_for_backward(sinks, query, key, value, output, lse, blocks)
        ctx.set_materialize_grads(False)
        ctx.compute, ctx.settings = module.block_backward, (layout, *settings)
        return output, lse

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, lse_grad):
        sinks, *tensors = ctx.saved_tensors
        saved, settings = Saved(*tensors), ctx.settings
        grad = torch.zeros_like(saved.output) if grad is None else rows_contiguous(grad)
        grads = ctx.compute(grad, lse_grad, saved, *settings)
        wanted = sinks if ctx.needs_input_grad[3] else None
        of_sinks = sinks_gradient(grad, saved, wanted, lse_grad)
        return (*grads, of_sinks, None, None, *(None for _ in settings))


def _joined(blocks: Sequence[Tensor], key: Tensor, layout: SequenceLayout, options: SpanOptions) -> Tensor:
    """The blocks of all sequences one after the other, `[Hkv, units, k]` int32, each unit's before any -1."""
    for place, x in enumerate(blocks):
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        if not isinstance(x, Tensor) or x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise ValueError(f"blocks[{place}] is {kind}; must be a tensor of integers, as select_blocks returns them")
    units = [options.units(length) for _, _, length in layout.sequences]
    shapes = [tuple(x.shape) for x in blocks]
    widths = {shape[-1] for shape in shapes if shape} or {0}
    if len(widths) > 1 or shapes != [(key.shape[1], count, *widths) for count in units]:
        raise ValueError(
            f"blocks of shapes {shapes} must be {[(key.shape[1], count, 'k') for count in units]}: one tensor for "
            "each sequence, one k for all; fill up with -1"
        )
    if not units:
        return torch.zeros(key.shape[1], 0, 0, dtype=torch.int32, device=key.device)
    # As they come: in 32 bits a number far out of range might look like one in it.
    given = torch.cat([x.to(key.device, torch.int64) for x in blocks], dim=1).sort(dim=-1, descending=True).values
    candidates = torch.cat([options.candidates(torch.arange(count)) for count in units]).to(key.device)
    twice = (given[..., 1:] == given[..., :-1]) & (given[..., 1:] >= 0)
    outside = (given < -1) | (given >= candidates[:, None])
    if bool(outside.any()) or bool(twice.any()):
        raise ValueError(_complaint(outside, given, candidates))
    return given.int()


def _complaint(outside: Tensor, given: Tensor, candidates: Tensor) -> str:
    """Which block is wrong, and what would be right."""
    if not bool(outside.any()):
        return "blocks name one block twice for a selection; its tokens would count twice"
    head, unit, slot = outside.nonzero()[0].tolist()
    return (
        f"block {int(given[head, unit, slot])} of selection {unit} (counted over all sequences), KV head {head}, must "
        f"be one of the {int(candidates[unit])} that end before the selection's chunk, or -1 for none"
    )
