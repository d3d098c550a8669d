# SPDX-License-Identifier: Apache-2.0
"""The attention of a decode step: one new token and what is kept of those before it.

Span-expanded attention reads its blocks and its own chunk, full attention the whole cache. On a GPU every method is
captured in a graph and replayed, as a decoding loop would: launching its kernels takes longer than running them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from hylora_kernels import span_attention
from hylora_kernels.decode import DecodeState, span_decode

from .checks import TOLERANCE, judge, place_of, relative_error
from .libraries import find
from .operators import wrong_methods
from .results import Results
from .runs import random_tensors
from .sizes import Sizes
from .timing import Budget, captured, cold_stopwatch, take_turns

LABELS = {
    "full": "Full",
    "cudnn": "Full, SDPA cuDNN",
    "fa2": "Full, flash-attn 2",
    "fa3": "Full, flash-attn 3",
    "se": "SE-Attn",
}
# From query, key and value of all tokens to what computes the last one's output, with a cache of some capacity.
Prepare = Callable[[Tensor, Tensor, Tensor, int], Callable[[], Tensor]]


def measure_decoding(sizes: Sizes, results: Results, budget: Budget) -> bool:
    """Check every method, then time those that are right, at all lengths that the budget allows.

    Returns:
        Whether all are right and nothing failed.
    """
    options, device = sizes.options, torch.device(sizes.options.device)
    checks = results.start("decode checks", lines=[])
    section = results.start("decode", settings=sizes.to_dict(), labels=LABELS, points=[])
    timed = cold_stopwatch(device)
    methods, missing = _methods(sizes)
    for name, reason in missing.items():
        if not section.has_left_out({"method": name}):
            section.leave_out(reason, method=name)
    drawn = (options.head_dim, sizes.dtype, options.device)
    for place in checks.todo(({"heads": heads, "method": name} for heads in sizes.heads for name in methods), budget):
        with checks.attempt(**place):
            tensors = random_tensors(*place["heads"], sizes.check_length, *drawn)
            line = _check(place["method"], methods[place["method"]], sizes, tensors)
            checks.add("lines", {**line, "for_heads": list(place["heads"])})
    places = ({"heads": heads, "length": length} for length in sizes.cache_lengths for heads in sizes.heads)
    for place in section.todo(places, budget):
        with section.attempt(**place):
            wrong = wrong_methods(checks, place["heads"])
            right = {name: method for name, method in methods.items() if name not in wrong}
            tokens, capacity = sizes.decode_tokens(place["length"])
            inputs = random_tensors(*place["heads"], tokens, *drawn)[:3]
            ready: dict[str, Callable[[], object]] = {}
            for name, prepare in right.items():
                if not section.has_left_out({**place, "method": name}):
                    with section.attempt(**place, method=name):
                        ready[name] = captured(prepare(*inputs, capacity), device)
            at = {**place, "pass": "decode"}
            for point in take_turns(ready.__getitem__, ready, at, timed, device, 2 * sizes.rounds):
                section.add("points", {**at, **point.to_dict()})
    return not section.failed and not checks.failed and all(line["passed"] for line in checks["lines"])


def _methods(sizes: Sizes) -> tuple[dict[str, Prepare], dict[str, str]]:
    """What can run here, and why the rest cannot."""
    methods: dict[str, Prepare] = {"se": partial(_span, options=sizes.options.span)}
    if sizes.options.device == "cpu":
        return {**methods, "full": partial(_full, backend=None)}, {}
    methods["full"] = partial(_full, backend=SDPBackend.FLASH_ATTENTION)
    methods["cudnn"] = partial(_full, backend=SDPBackend.CUDNN_ATTENTION)
    missing = {}
    for name, module in (("fa2", "flash_attn"), ("fa3", "flash_attn_interface")):
        function, reason = find(module, "flash_attn_with_kvcache")
        if reason is None:
            methods[name] = partial(_flash_attn, function=function)
        else:
            missing[name] = reason
    return methods, missing


def _span(query: Tensor, key: Tensor, value: Tensor, capacity: int, options: dict) -> Callable[[], Tensor]:
    before, last = ([x[:, :, at] for x in (query, key, value)] for at in (slice(-1), slice(-1, None)))
    state = DecodeState.from_prefill(*before, capacity=capacity, **options)
    return partial(span_decode, *last, state)


def _full(
    query: Tensor, key: Tensor, value: Tensor, capacity: int, backend: SDPBackend | None
) -> Callable[[], Tensor]:
    # As caches keep them: a head's tokens side by side.
    last, key, value = query[:, :, -1:], key.contiguous(), value.contiguous()

    @torch.no_grad()
    def step() -> Tensor:
        with nullcontext() if backend is None else sdpa_kernel(backend):
            return scaled_dot_product_attention(last, key, value, enable_gqa=query.shape[1] != key.shape[1])

    return step


def _flash_attn(query: Tensor, key: Tensor, value: Tensor, capacity: int, function: Callable) -> Callable[[], Tensor]:
    """flash-attn's decoding kernel, which splits the cache among multiprocessors; its caches are `[B, L, H, D]`."""
    last, key, value = (x.transpose(1, 2).contiguous() for x in (query[:, :, -1:], key, value))

    @torch.no_grad()
    def step() -> Tensor:
        output = function(last, key, value, causal=True)
        return (output[0] if isinstance(output, tuple) else output).transpose(1, 2)

    return step


def _check(name: str, prepare: Prepare, sizes: Sizes, tensors: list[Tensor]) -> dict:
    """Against the last row of the reference on all tokens, in float64."""
    query, key, value, _ = tensors
    length = query.shape[2]
    wide = [x.double() for x in (query, key, value)]
    if name == "se":
        expected = span_attention(*wide, **sizes.options.span, backend="reference")[:, :, -1:]
    else:
        expected = _full(*wide, length, backend=SDPBackend.MATH)()
    return judge(
        place_of(name, tensors),
        TOLERANCE[sizes.dtype],
        lambda: {"output": relative_error(prepare(query, key, value, length)(), expected)},
    )
