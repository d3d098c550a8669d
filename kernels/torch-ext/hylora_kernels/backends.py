# SPDX-License-Identifier: Apache-2.0
"""What a backend offers, and the choice of one."""

from __future__ import annotations

import warnings
from functools import lru_cache
from importlib import import_module
from typing import List, Optional, Protocol, Tuple, Union

import torch
from torch import Tensor

from .kept import DecodeTensors
from .layout import SequenceLayout
from .options import SpanOptions
from .saved import Saved
from .scoring import Scoring

_FASTEST_FIRST = ("triton", "flash", "torch")


class Backend(Protocol):
    """The functions of a module that computes; what `unsupported` refuses by name alone it need not define.

    Query is `[B, Hq, L, D]`, key and value are `[B, Hkv, L, D]`, the last dimension contiguous. `sinks` are put in by
    the caller.
    `reference` is none of these: torch sees and differentiates its operations.
    """

    def unsupported(
        self, work: str, query: Tensor, options: Optional[SpanOptions], softcap: Optional[float] = None
    ) -> Optional[str]:
        """Why these tensors are not taken, or None if they are.

        Args:
            work: "span", "select", "decode", "blocks" (given ones), "sliding_window" or "shifted_sparse".
            query: `[B, Hq, L, D]`, of which no value is read.
            options: those of the first four.
            softcap: that of the attention.
        """

    def span_forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: SequenceLayout,
        options: SpanOptions,
        scoring: Scoring,
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """The output, the log-sum-exp `[B, Hq, L]` of its scores in at least float32, and the retrieved blocks
        `[Hkv, units, top_k]` int32 of one sequence after the other."""

    def span_backward(
        self,
        grad: Tensor,
        saved: Saved,
        layout: SequenceLayout,
        options: SpanOptions,
        scoring: Scoring,
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, key and value."""

    def block_forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        blocks: Tensor,
        layout: SequenceLayout,
        options: SpanOptions,
        own_chunk: bool,
        scoring: Scoring,
    ) -> Tuple[Tensor, Tensor]:
        """Attention to blocks `[Hkv, units, k]` int32, each unit's before any -1, and its log-sum-exp, -inf where a
        query sees nothing."""

    def block_backward(
        self,
        grad: Tensor,
        lse_grad: Optional[Tensor],
        saved: Saved,
        layout: SequenceLayout,
        options: SpanOptions,
        own_chunk: bool,
        scoring: Scoring,
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, key and value; a gradient of None is 0."""

    def select_blocks(
        self, query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout, options: SpanOptions, scale: float
    ) -> List[Tensor]:
        """The retrieved blocks `[Hkv, units, top_k]` int64 of every sequence."""

    def sliding_window_forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: SequenceLayout,
        window: int,
        scoring: Scoring,
    ) -> Tuple[Tensor, Tensor]:
        """The output and the log-sum-exp."""

    def sliding_window_backward(
        self,
        grad: Tensor,
        saved: Saved,
        layout: SequenceLayout,
        window: int,
        scoring: Scoring,
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """As `span_backward`."""

    def shifted_sparse_forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: SequenceLayout,
        group: Union[int, float],
        scoring: Scoring,
    ) -> Tuple[Tensor, Tensor]:
        """The output and the log-sum-exp."""

    def shifted_sparse_backward(
        self,
        grad: Tensor,
        saved: Saved,
        layout: SequenceLayout,
        group: Union[int, float],
        scoring: Scoring,
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """As `span_backward`."""

    def span_decode(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: SequenceLayout,
        kept: DecodeTensors,
        options: SpanOptions,
        scoring: Scoring,
    ) -> Tuple[Tensor, Tensor]:
        """Append the tokens of the layout, at most one sequence per row, to what is kept of the rows, and give their
        attention `[B, Hq, n, D]` and its log-sum-exp `[B, Hq, n]` in at least float32, without meaning at padding."""


def shows_operations(name: str, query: Tensor) -> bool:
    """Whether the torch backend computes, and torch is to see its operations rather than one operator for them all.

    Whole operators are what `torch.compile` takes, and what runs kernels that torch does not know.
    """
    on_cpu = name == "auto" and query.device.type == "cpu"
    return (name == "torch" or on_cpu) and not torch.compiler.is_compiling()


def choose(
    name: str,
    work: str,
    query: Tensor,
    options: Optional[SpanOptions] = None,
    layout: Optional[SequenceLayout] = None,
    softcap: Optional[float] = None,
) -> Backend:
    """The backend that does this work.

    Args:
        name: one of `options.BACKENDS` but "reference".
        work: as in `Backend.unsupported`.
        query: likewise.
        options: likewise.
        layout: of the work "span" and "select".
        softcap: as in `Backend.unsupported`.

    Raises:
        ValueError: the backend was asked for by name and does not take this.
    """
    if name == "auto":
        return _fastest(work, query, options, layout, softcap)
    reason = _why_not(name, work, query, options, softcap)
    if reason is None:
        return _module(name)
    slower = _FASTEST_FIRST[_FASTEST_FIRST.index(name) + 1 :]
    usable = next(other for other in slower if _why_not(other, work, query, options, softcap) is None)
    raise ValueError(f"backend={name!r} does not take this input: {reason}; use backend={usable!r} or 'auto'")


def _fastest(
    work: str,
    query: Tensor,
    options: Optional[SpanOptions],
    layout: Optional[SequenceLayout],
    softcap: Optional[float],
) -> Backend:
    if query.device.type == "cpu":
        return _module("torch")
    # With nothing to retrieve it is causal attention, which libraries have.
    within_chunks = layout is not None and 0 < layout.longest <= options.chunk_size
    refused = {}
    for name in ("flash", *_FASTEST_FIRST) if within_chunks else _FASTEST_FIRST:
        refused[name] = _why_not(name, work, query, options, softcap)
        if refused[name] is None:
            break
    if refused.get("triton") and work in ("span", "select"):
        _warn_once(f"{refused['triton']}; span-expanded attention takes backend={name!r}, which is slower")
    return _module(name)


def _why_not(
    name: str, work: str, query: Tensor, options: Optional[SpanOptions], softcap: Optional[float]
) -> Optional[str]:
    try:
        return _module(name).unsupported(work, query, options, softcap)
    except ImportError as error:
        return f"triton cannot be imported ({error})"


def _module(name: str) -> Backend:
    return import_module(f".{name}_backend", __package__)  # when it is needed: Triton may be missing


@lru_cache(maxsize=None)
def _warn_once(message: str):
    warnings.warn(message, stacklevel=2)
