# SPDX-License-Identifier: Apache-2.0
"""Each Triton kernel inside the smallest computation that runs it, so that its launches can be compared."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import hylora_kernels
from hylora_kernels import SequenceLayout
from hylora_kernels.decode import DecodeState, span_decode
from hylora_kernels.options import SpanOptions, summary_width
from hylora_kernels.saved import Saved
from hylora_kernels.scoring import Scoring

from .methods import Options
from .runs import random_tensors

# Kernels that look up their launch by the dtype of sums, which is wider than that of the queries; and those among them
# that do so by the width of summaries in place of the head dimension.
_WIDE = ("retrieve", "decode_rank", "sum_runs")
_BY_WIDTH = ("retrieve", "decode_rank")
_MOST_LISTED = 256


class Stage(NamedTuple):
    """What to run, the dtype and head dimension by which the kernel looks up its launch, and whether to time it as a
    graph."""

    run: Callable[[], object]
    dtype: torch.dtype
    head_dim: int
    captured: bool = False


def stages(
    options: Options, heads: tuple[int, int], length: int, dtype: torch.dtype, selection: str
) -> dict[str, Stage]:
    """For the name of each kernel's file of launches, what to run; kernels of one computation share it.

    Each runs under the selection that is asked for ("chunk" or "token"), if it runs under that at all.
    """
    span, other = (options.span, options.recall) if selection == "chunk" else (options.recall, options.span)
    tensors = random_tensors(*heads, length, options.head_dim, dtype, options.device)
    decode = decode_step(*tensors[:3], span)
    return {
        **attention_stages(tensors, other),
        **attention_stages(tensors, span),
        **{
            name: Stage(decode, _listed_dtype(name, dtype), _listed(name, span, options.head_dim), captured=True)
            for name in _kernels("decode*")
        },
    }


def _listed_dtype(kernel: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype by which a kernel looks up its launch."""
    return torch.float32 if kernel in _WIDE else dtype


def _listed(kernel: str, options: dict[str, Any], head_dim: int) -> int:
    """The head dimension or width by which a kernel looks up its launch."""
    width = summary_width(SpanOptions(**options), head_dim) if kernel in _BY_WIDTH else head_dim
    return min(width, _MOST_LISTED)


def attention_stages(tensors: list[Tensor], options: dict[str, Any]) -> dict[str, Stage]:
    """The kernels that run under these options of `span_attention`, for query, key, value and output gradient."""
    from hylora_kernels.triton_backend.backward import attention_backward
    from hylora_kernels.triton_backend.forward import attention_forward
    from hylora_kernels.triton_backend.retrieval import pool_queries, retrieve
    from hylora_kernels.triton_backend.summary import summarize_blocks
    from hylora_kernels.triton_backend.tables import span_tables

    span = SpanOptions(**options)
    query, key, value, grad = tensors
    head_dim, kv_heads, scoring = query.shape[3], key.shape[1], Scoring.of(query, None)
    tables = span_tables(SequenceLayout.dense(1, query.shape[2]), span, query.device)
    summarize = partial(summarize_blocks, query, key, value, tables, span, scoring.scale)
    summaries, sums = summarize()
    pool = partial(pool_queries, query, sums, kv_heads, tables, span, scoring.scale)
    choose = partial(retrieve, pool(), summaries, tables, span.top_k)
    chosen = choose()
    attend = partial(attention_forward, query, key, value, chosen, tables, scoring, span.block_size)
    saved = Saved(query, key, value, *attend(), chosen)
    differentiate = partial(attention_backward, grad, saved, tables, scoring, span.block_size)
    runs = {"summary": summarize, "pool_queries": pool, "retrieve": choose, "forward": attend}
    runs |= dict.fromkeys(("backward_query", "backward_own"), differentiate)
    if tables.shared:
        runs["backward_retrieved"] = differentiate
    else:
        runs |= dict.fromkeys(("forward_pairs", "merge_slots"), attend)
        runs |= dict.fromkeys(("backward_pairs", "sum_runs"), differentiate)
    return {
        name: Stage(run, _listed_dtype(name, query.dtype), _listed(name, options, head_dim))
        for name, run in runs.items()
    }


def decode_step(query: Tensor, key: Tensor, value: Tensor, options: dict) -> Callable[[], Tensor]:
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
