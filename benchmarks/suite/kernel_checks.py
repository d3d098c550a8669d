# SPDX-License-Identifier: Apache-2.0
"""Is each Triton kernel right on this device? Against plain operations of torch in float32, on the same numbers.

At a small size with few heads, and at a real one with all of them. Blocks are random where attention to them is
checked (near ties may be ranked otherwise in another precision), and there are none where the own chunk's share is
checked by itself: what is right there and wrong with blocks is wrong in the kernels that read those.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hylora_kernels import SequenceLayout, selection, torch_backend, triton_backend
from hylora_kernels.decode import DecodeState, span_decode
from hylora_kernels.options import SpanOptions
from hylora_kernels.saved import Saved
from hylora_kernels.scoring import Scoring
from hylora_kernels.triton_backend import own_chunks
from hylora_kernels.triton_backend.summary import summarize_blocks
from hylora_kernels.triton_backend.tables import span_tables

from .checks import TOLERANCE, choice_tolerance, judge, relative_error, share_of_others
from .results import Results
from .runs import random_tensors
from .sizes import Sizes
from .timing import Budget

# What is computed twice, with query, key, value and the output's gradient; results by name.
Computed = dict[str, Tensor]


def check_kernels(sizes: Sizes, results: Results, budget: Budget) -> bool:
    """Check the kernels in the dtype of the sizes, and at the small size in float32 too.

    Returns:
        Whether all are right and nothing failed.
    """
    section = results.start("kernel checks", settings=sizes.to_dict(), lines=[])
    for place in section.todo(_places(sizes), budget):
        with section.attempt(**place):
            section.add("lines", _check(sizes, place))
    return not section.failed and all(line["passed"] for line in section["lines"])


def _places(sizes: Sizes) -> Iterator[dict[str, Any]]:
    few = sizes.few_heads
    dtype = sizes.to_dict()["dtype"]
    small = [(sizes.check_length, name, few) for name in dict.fromkeys((dtype, "float32"))]
    cases = [*small, (sizes.real_length, dtype, sizes.heads)]  # what takes longest comes last
    for length, name, pairs in cases:
        kernels = (*_CHECKS, *_libraries(sizes.options.device, name))
        for heads, choosing, kernel in product(pairs, ("chunk", "token"), kernels):
            yield {"kernel": kernel, "selection": choosing, "dtype": name, "heads": heads, "length": length}


def _libraries(device: str, dtype: str) -> list[str]:
    """Those that compute own chunks there in this dtype; on GPUs they take half precision alone."""
    if device == "cuda" and dtype == "float32":
        return []
    return [name for name, library in own_chunks.LIBRARIES.items() if library.device == device]


def _check(sizes: Sizes, place: dict[str, Any]) -> dict[str, Any]:
    """The line of one check."""
    compute, retrieval = _CHECKS.get(place["kernel"], (_both, "random"))
    library = None if place["kernel"] in _CHECKS else place["kernel"]
    chosen = sizes.options.span if place["selection"] == "chunk" else sizes.options.recall
    options, dtype = SpanOptions(**chosen, retrieval=retrieval), getattr(torch, place["dtype"])
    tensors = random_tensors(*place["heads"], place["length"], sizes.options.head_dim, dtype, sizes.options.device)
    choice = place["kernel"] == "choice"

    def errors() -> dict[str, float]:
        with own_chunks.forced(library):
            actual = compute(triton_backend, tensors, options)
        expected = compute(torch_backend, [tensor.float() for tensor in tensors], options)
        compare = share_of_others if choice else relative_error
        return {name: compare(actual[name], expected[name]) for name in expected}

    chosen_blocks = place["heads"][1] * options.units(place["length"]) * options.top_k
    return judge(place, choice_tolerance(chosen_blocks) if choice else TOLERANCE[dtype], errors)


def _settings(tensors: list[Tensor], options: SpanOptions) -> tuple[SequenceLayout, SpanOptions, Scoring]:
    return SequenceLayout.dense(1, tensors[0].shape[2]), options, Scoring.of(tensors[0], None)


def _summaries(backend: ModuleType, tensors: list[Tensor], options: SpanOptions) -> Computed:
    """Of whole blocks: the last one may be none."""
    layout, _, scoring = _settings(tensors, options)
    blocks, inputs = layout.length // options.block_size, tensors[:3]
    if backend is torch_backend:
        return {"summaries": selection.summarize_blocks(*inputs, blocks, options, scoring.scale)[0]}
    tables = span_tables(layout, options, inputs[0].device)
    return {"summaries": summarize_blocks(*inputs, tables, options, scoring.scale)[0][:, :blocks]}


def _choice(backend: ModuleType, tensors: list[Tensor], options: SpanOptions) -> Computed:
    layout, _, scoring = _settings(tensors, options)
    return {"blocks": backend.select_blocks(*tensors[:3], layout, options, scoring.scale)[0]}


def _forward(backend: ModuleType, tensors: list[Tensor], options: SpanOptions) -> Computed:
    output, lse, _ = backend.span_forward(*tensors[:3], *_settings(tensors, options))
    return {"output": output, "lse": lse}


def _backward(backend: ModuleType, tensors: list[Tensor], options: SpanOptions) -> Computed:
    *inputs, grad = tensors
    settings = _settings(tensors, options)
    saved = Saved(*inputs, *backend.span_forward(*inputs, *settings))
    return dict(zip(("dq", "dk", "dv"), backend.span_backward(grad, saved, *settings), strict=True))


def _both(backend: ModuleType, tensors: list[Tensor], options: SpanOptions) -> Computed:
    return {**_forward(backend, tensors, options), **_backward(backend, tensors, options)}


def _decode(backend: ModuleType, tensors: list[Tensor], options: SpanOptions) -> Computed:
    """The last token's step."""
    before, last = ([x[:, :, at] for x in tensors[:3]] for at in (slice(-1), slice(-1, None)))
    state = DecodeState.from_prefill(*before, options, capacity=tensors[0].shape[2])
    return {"output": span_decode(*last, state, backend=backend.__name__.rpartition(".")[2].split("_")[0])}


# What is checked: how it is computed, under which kind of retrieval. And own chunks by each library, by its name.
_CHECKS = {
    "summary": (_summaries, "relevance"),
    "choice": (_choice, "relevance"),
    "own chunk": (_both, "none"),
    "forward": (_forward, "random"),
    "backward": (_backward, "random"),
    "decode": (_decode, "relevance"),
}
