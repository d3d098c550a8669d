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

# Beside FlexAttention, which takes long to compile and so comes after all else, what it is compared with.
_BESIDE_FLEX = ("full", "se")


def measure_operators(sizes: Sizes, results: Results, budget: Budget) -> bool:
    """Check all methods but FlexAttention, and time those that are right.

    Returns:
        Whether all are right and nothing failed.
    """
    return _measure("operator", sizes, results, budget)


def measure_flex(sizes: Sizes, results: Results, budget: Budget) -> bool:
    """The same of FlexAttention, beside what it is compared with."""
    return _measure("flex", sizes, results, budget)


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


def _measure(part: str, sizes: Sizes, results: Results, budget: Budget) -> bool:
    """Forward, backward and both, for all heads and lengths that the budget allows, and the memory that they take."""
    checks = results.start(f"{part} checks", settings=sizes.to_dict(), lines=[])
    section = results.start(part, settings=sizes.to_dict(), labels={}, points=[])
    timed = cold_stopwatch(torch.device(sizes.options.device))
    usable = {}
    for heads in sizes.heads:
        methods = methods_of(part, sizes, heads)
        section["labels"] |= {name: method.label for name, method in methods.items()}
        for name, method in methods.items():
            if method.missing and not section.has_left_out({"heads": heads, "method": name}):
                section.leave_out(method.missing, heads=heads, method=name)
        usable[heads] = {name: method for name, method in methods.items() if not method.missing}
        if part == "flex" and usable[heads]:
            beside = all_methods(sizes, heads)
            usable[heads] |= {name: beside[name] for name in _BESIDE_FLEX}
    lengths = sizes.flex_lengths if part == "flex" else sizes.lengths
    places = ({"heads": heads, "length": length} for length in lengths for heads in usable if usable[heads])
    for place in section.todo(places, budget):
        heads = place["heads"]
        with section.attempt(**place):
            _check_methods(part, sizes, heads, usable[heads], checks, budget)
            wrong = wrong_methods(checks, heads)
            right = {name: method for name, method in usable[heads].items() if name not in wrong}
            for name, reason in wrong.items():
                if not section.has_left_out({"heads": heads, "method": name}):
                    section.leave_out(reason, heads=heads, method=name)
            _measure_place(right, place, sizes, timed, section, results, budget)
    return not section.failed and not checks.failed and all(line["passed"] for line in checks["lines"])


def _check_methods(
    part: str, sizes: Sizes, heads: tuple[int, int], usable: dict[str, Method], checks: Section, budget: Budget
) -> None:
    """Check what can run, output and gradients, and the choice of blocks; what has been checked is not again."""
    checked = methods_of(part, sizes, heads, retrieval_for(sizes.dtype))
    names = [{"heads": heads, "method": name} for name in usable if name in checked]
    choices = {"se": sizes.options.span, "se_recall": sizes.options.recall} if part == "operator" else {}
    names += [{"heads": heads, "method": name, "choice": True} for name in choices]
    for place in checks.todo(names, budget):
        with checks.attempt(**place):
            name, method = place["method"], checked[place["method"]]
            tensors = check_tensors(method, heads, sizes.options, sizes.check_length, sizes.dtype)
            if "choice" in place:
                line = check_choice(name, choices[name], tensors)
            else:
                line = check_method(name, method, tensors)
            checks.add("lines", {**line, "for_heads": list(heads)})


def wrong_methods(checks: Section, heads: tuple[int, int]) -> dict[str, str]:
    """Those that were found wrong for these heads, or whose check failed or was not made, and how.

    A method that chooses other blocks is named among the checks, and timed: which blocks they are takes no time.
    """
    wrong = {}
    for item in checks["left_out"]:
        if list(item["heads"]) == list(heads) and "choice" not in item:
            wrong[item["method"]] = f"not checked: {item['reason']}"
    for line in checks["lines"]:
        if line["for_heads"] == list(heads) and not line["passed"] and "choice" not in line:
            wrong[line["method"]] = f"wrong: {line['failure']}"
    return wrong


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
    if "ceilings" not in results.data:
        results.start("ceilings", **costs.measure_ceilings(device, sizes.dtype, sizes.side, sizes.copied))
    tensors = random_tensors(*heads, length, sizes.options.head_dim, sizes.dtype, sizes.options.device)
    # Long runs are steady, and dear.
    rounds = min(sizes.rounds, max(3, 2**18 // length))
    section.setdefault("backend", _backend(tensors[0], sizes))
    bound = _bind(methods, tensors, place, section, budget)
    for at in section.todo(({**place, "pass": name} for name in PASSES), budget):
        with section.attempt(**at):
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


def _bind(
    methods: dict[str, Method], tensors: list[Tensor], place: dict, section: Section, budget: Budget
) -> dict[str, Attend]:
    """The functions to time. Each runs once: its kernels are compiled here, and what cannot run says so."""
    bound: dict[str, Attend] = {}
    for name, method in methods.items():
        at = {**place, "method": name}
        if section.has_left_out(at):
            continue  # an earlier process ended with it
        if budget.spent:
            section.leave_out("no time left", **at)
            continue
        with section.attempt(**at):
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
