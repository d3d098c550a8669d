# SPDX-License-Identifier: Apache-2.0
"""Decoding with span-expanded attention: new tokens of each sequence against what is kept of those before them."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from . import backends, ops, torch_backend
from .inputs import check_inputs, follow_autocast, resize_heads, rows_contiguous
from .layout import SequenceLayout
from .options import BACKENDS, check_choice
from .reference.decode import last_rows
from .sinks import add_sinks, check_sinks
from .state import DecodeState, check_rows

__all__ = ["DecodeState", "span_decode"]


@torch.no_grad()
def span_decode(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    state: DecodeState,
    *,
    layout: Optional[SequenceLayout] = None,
    sinks: Optional[Tensor] = None,
    backend: str = "auto",
) -> Tensor:
    """The attention of new tokens, which are appended to the state.

    The result are the last rows of `span_attention`, with what the state was made with, over each row's tokens so far.
    With `selection="token"` or "causal" these are the tokens' rows in any longer sequence too, so it does not matter
    in which pieces tokens come. With "chunk", whose choice looks ahead inside a chunk, it does: the chunk's queries so
    far choose, those of this call included.

    Args:
        query: `[B, Hq, n, D]`, after rotary embedding; n is at least 1.
        key: `[B, Hkv, n, D]`, likewise.
        value: `[B, Hkv, n, Dv]`.
        state: the tokens before; changed in place.
        layout: which tokens are real, at most one run in each row; None means all.
        sinks: `[Hq]`, as in `span_attention`.
        backend: "auto", "reference" (recomputes everything; the state must keep all queries), "torch" or "triton".

    Returns:
        `[B, Hq, n, Dv]` in the query's dtype; zeros at padding. No gradient flows.

    Raises:
        ValueError: tensors that do not belong together or to the state, a row of several sequences, or a backend that
            does not take them.
    """
    check_choice("backend", backend, BACKENDS)
    query, key, value = follow_autocast(query, key, value)
    check_inputs(query, key, value, layout)
    _check_state(query, key, value, state)
    check_sinks(sinks, query)
    if layout is not None:
        check_rows(layout)
    if backend == "reference" and not state.keeps_queries:
        raise ValueError("backend='reference' recomputes from all queries; make the state with keep_queries=True")
    computing = "torch" if backend == "reference" else backend
    query, key, value = resize_heads(state.key_cache.shape[3], query, key, value)
    if not torch.compiler.is_compiling():
        # Refuses before anything has changed.
        backends.choose(computing, "decode", query, state.options, softcap=state.scoring.softcap)
    state.expect(query.shape[2], layout)
    settings = state.tensors(), state.options, state.scoring
    if backends.shows_operations(computing, query):
        with torch.autocast(query.device.type, enabled=False):
            tokens = map(rows_contiguous, (query, key, value))
            attended = torch_backend.span_decode(*tokens, SequenceLayout.of(query, layout), *settings)
    else:
        attended = ops.span_decode(query, key, value, layout, *settings, computing)
    if backend == "reference":
        output = last_rows(state, SequenceLayout.of(query, layout), sinks)
    else:
        output, _ = add_sinks(*attended, sinks)
    return resize_heads(state.value_dim, output)[0]


def _check_state(query: Tensor, key: Tensor, value: Tensor, state: DecodeState):
    (batch, heads), kv_heads, tokens = state.queries.shape[:2], state.key_cache.shape[1], query.shape[2]
    sizes = {"query": (heads, state.head_dim), "key": (kv_heads, state.head_dim), "value": (kv_heads, state.value_dim)}
    expected = [(batch, count, tokens, size) for count, size in sizes.values()]
    if tokens == 0 or [tuple(x.shape) for x in (query, key, value)] != expected:
        given = ", ".join(f"{name} {tuple(x.shape)}" for name, x in zip(sizes, (query, key, value)))
        wanted = ", ".join(f"[{batch}, {count}, n, {size}]" for count, size in sizes.values())
        raise ValueError(
            f"{given} must be at least one token of each row of the state, {wanted}; the state is made with these "
            "sizes (heads, kv_heads, head_dim, value_dim)"
        )
    if (query.dtype, query.device) != (state.key_cache.dtype, state.lengths.device):
        raise ValueError(
            f"the token has {query.dtype} on {query.device}, the state {state.key_cache.dtype} on "
            f"{state.lengths.device}; cast the token, or make the state with its dtype and device"
        )
