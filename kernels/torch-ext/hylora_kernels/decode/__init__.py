# SPDX-License-Identifier: Apache-2.0
"""Decoding with span-expanded attention: one new token per sequence against what is kept of those before it."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor
from torch.library import custom_op

from .. import backends
from ..ops import SPAN_ARGUMENTS, TENSOR_ARGUMENTS, add_op_namespace_prefix, pack_options, unpack_options
from ..options import SpanOptions, check_choice, check_inputs, follow_autocast
from ..parts import rows_contiguous
from . import reference, torch_backend
from .state import DecodeState

__all__ = ["DecodeState", "span_decode"]

_BACKENDS = ("auto", "reference", "torch", "triton")
_STATE = ("key_cache", "value_cache", "queries", "summaries", "unit_sum", "previous_sum", "lengths")


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
    check_choice("backend", backend, _BACKENDS)
    query, key, value = follow_autocast(query, key, value)
    check_inputs(query, key, value, None)
    _check_state(query, key, state)
    if backend == "reference" and not state.keeps_queries:
        raise ValueError("backend='reference' recomputes from all queries; make the state with keep_queries=True")
    if backend == "triton" and (reason := _why_not_triton(query, state.options)):
        raise ValueError(f"backend='triton' does not take this input: {reason}; use backend='torch' or 'auto'")
    if state.held == state.capacity:
        state._grow(2 * state.capacity)
    state.held += 1
    stepping = "torch" if backend == "reference" else backend
    output = _span_decode(query, key, value, *state.tensors(), *pack_options(state.options), state.scale, stepping)
    return reference.last_rows(state) if backend == "reference" else output


@custom_op(
    add_op_namespace_prefix("span_decode"),
    mutates_args=_STATE,
    schema=f"({TENSOR_ARGUMENTS}, {', '.join(f'Tensor({x}!) {name}' for x, name in zip('abcdefg', _STATE))}, "
    f"{SPAN_ARGUMENTS}) -> Tensor",
)
def _span_decode(*arguments):
    tensors, (*options, scale, backend) = arguments[:10], arguments[10:]
    query, options = tensors[0], unpack_options(*options)
    with torch.autocast(query.device.type, enabled=False):
        if backend == "triton" or (backend == "auto" and query.is_cuda and not _why_not_triton(query, options)):
            from ..triton_backend import decode

            return decode.span_decode(*map(rows_contiguous, tensors[:3]), *tensors[3:], options, scale)
        return torch_backend.span_decode(*tensors, options, scale)


@_span_decode.register_fake
def _(query, *_rest):
    return query.new_empty(query.shape)


def _why_not_triton(query: Tensor, options: SpanOptions) -> Optional[str]:
    """Why the Triton kernels cannot decode this, or None if they can."""
    if options.retrieves and options.retrieval == "random":
        return "random retrieval has no decoding kernel"
    return backends.why_not_triton(query, options)


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
