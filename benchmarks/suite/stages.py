# SPDX-License-Identifier: Apache-2.0
"""Each Triton kernel inside the smallest computation that runs it, so that its launches can be compared."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import sqrt
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import hylora_kernels
from hylora_kernels import SequenceLayout
from hylora_kernels.decode import DecodeState, span_decode
from hylora_kernels.options import SpanOptions
from hylora_kernels.saved import Saved

from .methods import Options
from .runs import random_tensors

# Kernels that look up their launch by the dtype of the summaries, which is wider than that of the queries.
_BY_SUMMARIES = ("retrieve", "decode_rank")


class Stage(NamedTuple):
    """What to run, the dtype by which the kernel looks up its launch, and whether to time it as a graph."""

    run: Callable[[], object]
    dtype: torch.dtype
    captured: bool = False


def stages(
    options: Options, heads: tuple[int, int], length: int, dtype: torch.dtype, selection: str
) -> dict[str, Stage]:
    """For the name of each kernel's file of launches, what to run; kernels of one computation share it."""
    from hylora_kernels.triton_backend.backward import attention_backward
    from hylora_kernels.triton_backend.forward import attention_forward
    from hylora_kernels.triton_backend.lists import reading_lists
    from hylora_kernels.triton_backend.retrieval import pool_queries, retrieve
    from hylora_kernels.triton_backend.summary import summarize_blocks
    from hylora_kernels.triton_backend.tables import span_tables

    span = SpanOptions(**options.span, selection=selection)
    scale = 1 / sqrt(options.head_dim)
    query, key, value, grad = random_tensors(*heads, length, options.head_dim, dtype, options.device)
    tables = span_tables(SequenceLayout.dense(1, length), span, query.device)

    summarize = partial(summarize_blocks, query, key, value, tables, span, scale)
    summaries, sums = summarize()
    pool = partial(pool_queries, query, sums, heads[1], tables, span)
    choose = partial(retrieve, pool(), summaries, tables, span.top_k)
    lists = reading_lists(choose(), tables, span)
    attend = partial(attention_forward, query, key, value, lists, tables, scale, span.block_size)
    rest = (lists, tables, scale, span.block_size)
    differentiate = partial(attention_backward, grad, Saved(query, key, value, *attend()), *rest)
    runs = {"summary": summarize, "pool_queries": pool, "retrieve": choose, "forward": attend}
    runs |= dict.fromkeys(_kernels("backward*"), differentiate)
    decode = _decode_step(query, key, value, options.span | {"selection": selection})
    decoding = dict.fromkeys(_kernels("decode*"), decode)
    return {
        name: Stage(run, summaries.dtype if name in _BY_SUMMARIES else dtype, captured=name in decoding)
        for name, run in {**runs, **decoding}.items()
    }


def _decode_step(query: Tensor, key: Tensor, value: Tensor, options: dict) -> Callable[[], Tensor]:
    """The same step again and again: what it changes is set back first."""
    before, last = ([x[:, :, at] for x in (query, key, value)] for at in (slice(-1), slice(-1, None)))
    state = DecodeState.from_prefill(*before, capacity=query.shape[2], **options)
    changed = (state.sums, state.lengths)
    kept = [tensor.clone() for tensor in changed]

    def step() -> Tensor:
        for tensor, content in zip(changed, kept, strict=True):
            tensor.copy_(content)
        state.held = query.shape[2] - 1
        return span_decode(*last, state, backend="triton")

    return step


def _kernels(pattern: str) -> list[str]:
    """Names of files of launches."""
    return sorted(
        path.stem
        for path in (Path(hylora_kernels.__file__).parent / "triton_backend/launches").glob(f"{pattern}.json")
    )
