# SPDX-License-Identifier: Apache-2.0
"""Attention alone: every method is checked, and those that are right are timed against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from hylora_kernels import SequenceLayout
from hylora_kernels.backends import choose
from hylora_kernels.options import SpanOptions

from . import costs
from .checks import check_choice, check_method, check_tensors, retrieval_for
from .flex import flex_methods
from .libraries import library_methods
from .methods import Attend, Method, full_attention, full_method, own_methods
from .results import Results, Section
from .runs import PASSES, prepare, random_tensors
from .sizes import Sizes
from .timing import Budget, Clock, cold_stopwatch, take_turns

# The two parts: FlexAttention, which takes long to compile, comes after all else, beside those it is compared with.
PARTS = ("operator", "flex")
_BESIDE_FLEX = ("full", "se")
# Most kernels of libraries are for half precision alone; these are not.
_EVERY_DTYPE = ("se", "nomem", "se_recall", "sw", "s2")


def all_methods(sizes: Sizes, heads: tuple[int, int], retrieval: str = "relevance") -> dict[str, Method]:
    """Every method there is, those that cannot run here included."""
    options = sizes.options
    methods = own_methods(options, retrieval)
    if options.device == "cuda":
        flash = partial(full_attention, backend=SDPBackend.FLASH_ATTENTION)
        methods["full"] = full_method("Full, SDPA flash", flash)
        by_flash = own_methods(options, retrieval, backend="flash")["se"]
        methods["se_flash"] = replace(by_flash, label="SE-Attn without Triton")
    methods |= library_methods(options, heads)
    methods |= flex_methods(options, methods, retrieval, sizes.flex_lengths)
    return methods


def methods_of(part: str, sizes: Sizes, heads: tuple[int, int], retrieval: str = "relevance") -> dict[str, Method]:
    """Those of one part of the measurement."""
    methods = all_methods(sizes, heads, retrieval)
    return {name: method for name, method in methods.items() if (method.lengths is not None) == (part == "flex")}


def check_operators(part: str, sizes: Sizes, results: Results) -> bool:
    """Check every method of a part that can run here, output and gradients, and the choice of blocks.

    Returns:
        Whether all are right.
    """
    section = results.start(f"{part} checks", settings=sizes.to_dict(), lines=[])
    for heads in sizes.heads:
        for dtype in dict.fromkeys((torch.float32, sizes.dtype)):
            methods = methods_of(part, sizes, heads, retrieval_for(dtype))
            for name, method in methods.items():
                if method.missing or (dtype != sizes.dtype and name not in _EVERY_DTYPE):
                    continue
                with section.attempt(heads=heads, method=name, dtype=str(dtype)):
                    tensors = check_tensors(method, heads, sizes.options, sizes.check_length, dtype)
                    section.add("lines", check_method(name, method, tensors))
            choices = {"se": sizes.options.span, "se_recall": sizes.options.recall}
            for name, options in choices.items() if part == "operator" else ():
                with section.attempt(heads=heads, method=name, dtype=str(dtype), choice=True):
                    tensors = check_tensors(methods[name], heads, sizes.options, sizes.check_length, dtype)
                    section.add("lines", check_choice(name, options, tensors))
    return not section.failed and all(line["passed"] for line in section["lines"])


def wrong_methods(sizes: Sizes, results: Results) -> dict[str, str]:
    """Those that were found wrong in the dtype that is timed, and how."""
    dtype = sizes.to_dict()["dtype"]
    lines = [line for part in PARTS for line in results.data.get(f"{part} checks", {}).get("lines", [])]
    return {
        line["method"]: f"wrong: {line['failure']}" for line in lines if not line["passed"] and line["dtype"] == dtype
    }


def measure_operators(part: str, sizes: Sizes, results: Results, budget: Budget) -> bool:
    """Time forward, backward and both, and count memory, for all heads and lengths that the budget allows.

    Returns:
        Whether nothing failed.
    """
    section = results.start(part, settings=sizes.to_dict(), labels={}, points=[])
    timed = cold_stopwatch(torch.device(sizes.options.device))
    wrong = wrong_methods(sizes, results)
    usable = {}
    for heads in sizes.heads:
        methods = methods_of(part, sizes, heads)
        section["labels"] |= {name: method.label for name, method in methods.items()}
        usable[heads] = {name: m for name, m in methods.items() if not m.missing and name not in wrong}
        for name, method in methods.items():
            if name not in usable[heads]:
                section.leave_out(method.missing or wrong[name], heads=heads, method=name)
        if part == "flex" and usable[heads]:
            beside = all_methods(sizes, heads)
            usable[heads] |= {name: beside[name] for name in _BESIDE_FLEX if name not in wrong}
    lengths = sizes.flex_lengths if part == "flex" else sizes.lengths
    places = ({"heads": heads, "length": length} for length in lengths for heads in usable if usable[heads])
    for place in section.in_time(places, budget):
        with section.attempt(**place):
            _measure_place(usable[place["heads"]], place, sizes, timed, section, results, budget)
    return not section.failed


def _measure_place(
    methods: dict[str, Method],
    place: dict,
    sizes: Sizes,
    timed: Clock,
    section: Section,
    results: Results,
    budget: Budget,
) -> None:
    """All methods at one length."""
    device, heads, length = torch.device(sizes.options.device), place["heads"], place["length"]
    tensors = random_tensors(*heads, length, sizes.options.head_dim, sizes.dtype, sizes.options.device)
    # Long runs are steady, and dear.
    rounds = min(sizes.rounds, max(3, 2**18 // length))
    section.setdefault("backend", _backend(tensors[0], sizes))
    bound = _bind(methods, tensors, place, section)
    for at in section.in_time(({**place, "pass": name} for name in PASSES), budget):
        run = lambda name, at=at: prepare(at["pass"], bound[name], tensors)  # noqa: E731
        for point in take_turns(run, bound, at, timed, device, rounds):
            fractions = _fractions(point, methods[point.contender].pairs, at, sizes, results)
            bytes_in = sum(x.nbytes for x in tensors)
            section.add("points", {**at, "input_bytes": bytes_in, **point.to_dict(), **fractions})


def _backend(query: Tensor, sizes: Sizes) -> str:
    """The module that computes SE-Attn here: where Triton is missing, it is another than one would think."""
    options = SpanOptions(**sizes.options.span)
    layout = SequenceLayout.dense(1, query.shape[2])
    return choose("auto", "span", query, options, layout).__name__.rpartition(".")[2]


def _bind(methods: dict[str, Method], tensors: list[Tensor], place: dict, section: Section) -> dict[str, Attend]:
    """The functions to time. Each runs once: its kernels are compiled here, and what cannot run says so."""
    bound: dict[str, Attend] = {}
    for name, method in methods.items():
        with section.attempt(**place, method=name):
            attend = method.bind(*tensors[:3])
            try:
                prepare("forward+backward", attend, tensors)()
                prepare("forward", attend, tensors)()
            except torch.OutOfMemoryError:
                # Left to the measurement, which notes for each pass whether it ran out.
                torch.cuda.empty_cache()
            bound[name] = attend
    return bound


def _fractions(
    point: Any, pairs: Callable[[int], float] | None, place: dict, sizes: Sizes, results: Results
) -> dict[str, float | None]:
    """The share of the device's measured rates that a method's necessary operations and bytes come to."""
    ceilings = results.data.get("ceilings")
    if ceilings is None or point.time is None or pairs is None:
        return {"matmul_fraction": None, "copy_fraction": None}
    heads, pass_name, seconds = place["heads"], place["pass"], point.time.median
    operations = costs.operations(pairs(point.length), heads[0], sizes.options.head_dim, pass_name)
    traffic = costs.traffic(*heads, point.length, sizes.options.head_dim, sizes.dtype.itemsize, pass_name)
    return {
        "matmul_fraction": operations / seconds / ceilings["matmul"]["flops_per_second"],
        "copy_fraction": traffic / seconds / ceilings["copy"]["bytes_per_second"],
    }
