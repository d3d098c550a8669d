# SPDX-License-Identifier: Apache-2.0
"""Decoding with span-expanded attention: new tokens of each sequence against what is kept of those before them."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from . import backends, ops, torch_backend
from .inputs import check_inputs, follow_autocast, rows_contiguous
from .layout import SequenceLayout
from .options import BACKENDS, check_choice
from .reference.decode import last_rows
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
    backend: str = "auto",
) -> Tensor:
    """The attention of new tokens, which are appended to the state.

    The result are the last rows of `span_attention`, with the state's options, over each row's tokens so far. With
    `selection="token"` or "causal" these are the tokens' rows in any longer sequence too, so it does not matter in
    which pieces tokens come. With "chunk", whose choice looks ahead inside a chunk, it does: the chunk's queries so
    far choose, those of this call included.

    Args:
        query: `[B, Hq, n, D]`, after rotary embedding; n is at least 1.
        key: `[B, Hkv, n, D]`, likewise.
        value: `[B, Hkv, n, D]`.
        state: the tokens before; changed in place.
        layout: which tokens are real, at most one run in each row; None means all.
        backend: "auto", "reference" (recomputes everything; the state must keep all queries), "torch" or "triton".

    Returns:
        `[B, Hq, n, D]` in the query's dtype; zeros at padding. No gradient flows.

    Raises:
        ValueError: tensors that do not belong together or to the state, a row of several sequences, or a backend that
            does not take them.
    """
    check_choice("backend", backend, BACKENDS)
    query, key, value = follow_autocast(query, key, value)
    check_inputs(query, key, value, layout)
    _check_state(query, key, state)
    if layout is not None:
        check_rows(layout)
    if backend == "reference" and not state.keeps_queries:
        raise ValueError("backend='reference' recomputes from all queries; make the state with keep_queries=True")
    computing = "torch" if backend == "reference" else backend
    if not torch.compiler.is_compiling():
        backends.choose(computing, "decode", query, state.options)  # refuses before anything has changed
    state.expect(query.shape[2], layout)
    settings = state.tensors(), state.options, state.scale
    if backends.shows_operations(computing, query):
        with torch.autocast(query.device.type, enabled=False):
            tokens = map(rows_contiguous, (query, key, value))
            output = torch_backend.span_decode(*tokens, SequenceLayout.of(query, layout), *settings)
    else:
        output = ops.span_decode(query, key, value, layout, *settings, computing)
    return last_rows(state, SequenceLayout.of(query, layout)) if backend == "reference" else output


def _check_state(query: Tensor, key: Tensor, state: DecodeState):
    batch, heads, _, head_dim = state.queries.shape
    kv_heads, tokens = state.key_cache.shape[1], query.shape[2]
    expected = [(batch, heads, tokens, head_dim), (batch, kv_heads, tokens, head_dim)]
    if tokens == 0 or [tuple(query.shape), tuple(key.shape)] != expected:
        raise ValueError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)} must be at least one token of each row of the "
            f"state, [{batch}, {heads}, n, {head_dim}] and [{batch}, {kv_heads}, n, {head_dim}]"
        )
    if (query.dtype, query.device) != (state.key_cache.dtype, state.lengths.device):
        raise ValueError(
            f"the token has {query.dtype} on {query.device}, the state {state.key_cache.dtype} on "
            f"{state.lengths.device}; cast the token, or make the state with its dtype and device"
        )
