# SPDX-License-Identifier: Apache-2.0
"""Decoding with span-expanded attention: one new token per sequence against what is kept of those before it."""

from __future__ import annotations

import torch
from torch import Tensor

from . import backends, ops
from .options import check_choice, check_inputs, follow_autocast
from .reference.decode import last_rows
from .state import DecodeState

__all__ = ["DecodeState", "span_decode"]


@torch.no_grad()
def span_decode(query: Tensor, key: Tensor, value: Tensor, state: DecodeState, *, backend: str = "auto") -> Tensor:
    """The attention of one new token per row, which is appended to the state.

    The result is the last row of `span_attention`, with the state's options, over the row's tokens so far. With
    `selection="causal"` that is the token's row of any longer sequence too; with "chunk", whose choice looks ahead
    inside a chunk, it is not: here the chunk's queries so far choose.

    Args:
        query: `[B, Hq, 1, D]`, after rotary embedding.
        key: `[B, Hkv, 1, D]`, likewise.
        value: `[B, Hkv, 1, D]`.
        state: the tokens before; changed in place.
        backend: "auto", "reference" (recomputes everything; the state must keep all queries), "torch" or "triton".

    Returns:
        `[B, Hq, 1, D]` in the query's dtype. No gradient flows.

    Raises:
        ValueError: tensors that do not belong together or to the state, or a backend that does not take them.
    """
    check_choice("backend", backend, backends.NAMES)
    query, key, value = follow_autocast(query, key, value)
    check_inputs(query, key, value, None)
    _check_state(query, key, state)
    if backend == "reference" and not state.keeps_queries:
        raise ValueError("backend='reference' recomputes from all queries; make the state with keep_queries=True")
    stepping = "torch" if backend == "reference" else backend
    if not torch.compiler.is_compiling():
        backends.choose(stepping, "decode", query, state.options)  # refuses before anything has changed
    state.count_token()
    output = ops.span_decode(query, key, value, state.tensors(), state.options, state.scale, stepping)
    return last_rows(state) if backend == "reference" else output


def _check_state(query: Tensor, key: Tensor, state: DecodeState):
    batch, heads, _, head_dim = state.queries.shape
    expected = [(batch, heads, 1, head_dim), (batch, state.key.shape[1], 1, head_dim)]
    if [tuple(query.shape), tuple(key.shape)] != expected:
        raise ValueError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)} must be one token of each row of the state: "
            f"{expected[0]} and {expected[1]}"
        )
    if (query.dtype, query.device) != (state.key.dtype, state.key.device):
        raise ValueError(
            f"the token has {query.dtype} on {query.device}, the state {state.key.dtype} on {state.key.device}; "
            "cast the token, or make the state with its dtype and device"
        )
