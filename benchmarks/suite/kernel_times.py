# SPDX-License-Identifier: Apache-2.0
"""Where the time of span-expanded attention goes: each kernel that a forward and backward pass runs on the device.

With random inputs, and with a block that everybody chooses, as texts have in their first tokens: its list of readers
is the longest there is, which random inputs never show.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from hylora_kernels import SequenceLayout, select_blocks, span_attention
from hylora_kernels.triton_backend import own_chunks

from .costs import kernel_operations, measure_ceilings
from .results import Results
from .runs import PASSES, prepare, random_tensors, sink_tensors
from .sizes import Sizes
from .timing import Budget, Clock, cold_stopwatch

# Beyond so many, what torch runs beside our kernels is not told apart.
_NAMED = 24


def time_kernels(sizes: Sizes, results: Results, budget: Budget) -> bool:
    """Tables of times for all heads, both kinds of inputs, and both kinds of choice.

    Returns:
        Whether nothing failed.
    """
    section = results.start("kernels", settings=sizes.to_dict(), points=[], lines=[])
    device, length = torch.device(sizes.options.device), sizes.kernel_length
    with section.attempt(what="ceilings"):
        results.start("ceilings", **measure_ceilings(device, sizes.dtype, sizes.side, sizes.copied))
    timed = cold_stopwatch(device)
    cases = product(("chunk", "token"), ("random", "sink"), sizes.heads)
    places = ({"heads": heads, "length": length, "selection": s, "inputs": i} for s, i, heads in cases)
    for place in section.todo(places, budget):
        with section.attempt(**place):
            options = sizes.options.span if place["selection"] == "chunk" else sizes.options.recall
            tensors = _tensors(sizes, place, options["block_size"])
            attend = partial(span_attention, **options, backend="triton")
            blocks = select_blocks(*tensors[:3], **options, backend="triton")[0]
            run = prepare("forward+backward", attend, tensors)
            run()
            points = _passes(attend, tensors, timed, sizes.rounds)
            section.add("points", *({**place, "chose_first": _share_of_first(blocks), **point} for point in points))
            by_library = own_chunks.chosen(tensors[0], SequenceLayout.dense(1, length)) is not None
            heads, size = place["heads"][0], options["block_size"]
            work = kernel_operations(blocks, sizes.options, size, heads, length, by_library)
            section.add("lines", *({**place, **line} for line in _by_kernel(run, device, sizes.rounds, work)))
    return not section.failed


def _tensors(sizes: Sizes, place: dict[str, Any], block_size: int) -> list[Tensor]:
    drawn = (*place["heads"], place["length"], sizes.options.head_dim, sizes.dtype, sizes.options.device)
    return sink_tensors(block_size, *drawn) if place["inputs"] == "sink" else random_tensors(*drawn)


def _share_of_first(blocks: Tensor) -> float:
    """Of the units that choose at all, how many choose the first block."""
    choosing = (blocks >= 0).any(dim=-1)
    return float((blocks == 0).any(dim=-1)[choosing].double().mean())


def _passes(attend: Callable, tensors: list[Tensor], timed: Clock, rounds: int) -> Iterator[dict[str, Any]]:
    """Seconds of whole passes, by events."""
    for name in PASSES:
        seconds = [timed(prepare(name, attend, tensors), tensors[0].device) for _ in range(rounds)]
        print(name, f"{1e3 * median(seconds):.4g} ms", flush=True)
        yield {"pass": name, "seconds": median(seconds), "all_seconds": seconds}


def _by_kernel(
    run: Callable[[], object], device: torch.device, rounds: int, operations: dict[str, float]
) -> Iterator[dict[str, Any]]:
    """Microseconds per run of each kernel, by torch's profiler; longest first."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as record:
        for _ in range(rounds):
            run()
        if on_gpu:
            torch.cuda.synchronize()
    found: dict[str, list[float]] = {}
    for event in record.key_averages():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        # What the host did may be listed with the time of the kernels that it launched.
        if spent > 0 and (event.device_type == DeviceType.CUDA) == on_gpu:
            total = found.setdefault(short_name(event.key), [0.0, 0.0])
            total[0] += spent / rounds
            total[1] += event.count / rounds
    for name, (microseconds, calls) in sorted(found.items(), key=lambda item: -item[1][0])[:_NAMED]:
        rate = operations[name] / (1e-6 * microseconds) if name in operations else None
        print(f"{name}: {microseconds:.1f} us in {calls:g} calls", flush=True)
        yield {"kernel": name, "microseconds": microseconds, "calls": calls, "flops_per_second": rate}


def short_name(kernel: str) -> str:
    """A kernel's name without the types of C++."""
    plain = re.sub(r"^void |\(anonymous namespace\)::", "", kernel)
    return re.split(r"[<(]", plain, maxsplit=1)[0].strip()[-60:] or kernel[:60]
