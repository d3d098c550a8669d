# SPDX-License-Identifier: Apache-2.0
"""Attention alone: every method is checked, and those that are right are timed against each other."""

from __future__ import annotations

from dataclasses import replace

import torch

from hylora_eval.runtime.rounds import measure
from hylora_kernels import SequenceLayout
from hylora_kernels.backends import choose
from hylora_kernels.options import SpanOptions

from . import costs
from .checks import check_choice, check_method, check_tensors, describe_error, retrieval_for
from .flex import flex_methods
from .libraries import library_methods, sdpa_flash
from .methods import Attend, Method, causal_method, own_methods
from .results import Results
from .runs import PASSES, prepare, random_tensors
from .sizes import Sizes
from .timing import Budget, cold_stopwatch, rounds_for

# Without these, right, nothing is worth timing.
ESSENTIAL = ("se", "nomem", "se_causal")
# The two parts: FlexAttention, which takes long to compile, comes after all else, beside those it is compared with.
PARTS = ("operator", "flex")
_BESIDE_FLEX = ("full", "se")


def all_methods(sizes: Sizes, heads: tuple[int, int], retrieval: str = "relevance") -> dict[str, Method]:
    """Every method there is, those that cannot run here included."""
    options = sizes.options
    methods = own_methods(options, retrieval)
    if options.device == "cuda":
        methods["full"] = sdpa_flash()
        flash = own_methods(options, retrieval, backend="flash")["se"]
        methods["se_flash"] = replace(flash, label="SE-Attn without Triton")
    methods["se_causal"] = causal_method(options, retrieval)
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
    lines: list[dict] = []
    results.start(f"{part} checks", {"settings": sizes.to_dict(), "lines": lines})
    for heads in sizes.heads:
        for dtype in dict.fromkeys((torch.float32, sizes.dtype)):
            methods = methods_of(part, sizes, heads, retrieval_for(dtype))
            for name, method in methods.items():
                # Most kernels of libraries are for half precision alone.
                if method.missing or (dtype != sizes.dtype and name not in (*ESSENTIAL, "sw", "s2")):
                    continue
                tensors = check_tensors(method, heads, sizes.options, sizes.check_length, dtype)
                _note(check_method(name, method, tensors), lines, results)
            if part == "operator":
                tensors = check_tensors(methods["se"], heads, sizes.options, sizes.check_length, dtype)
                for name, selection in (("se", "chunk"), ("se_causal", "causal")):
                    line = check_choice(name, sizes.options, tensors, selection=selection)
                    _note(line, lines, results)
    return all(line["passed"] for line in lines)


def _note(line: dict, lines: list[dict], results: Results) -> None:
    lines.append(line)
    results.save()
    what = "choice of blocks" if line.get("choice") else "output, gradients"
    verdict = "ok" if line["passed"] else f"WRONG: {line['failure']}"
    error = "" if line["error"] is None else f" {line['error']:.1e}"
    print(f"check {line['method']:10} {line['heads']} {line['dtype']:9} {what}{error} {verdict}", flush=True)


def wrong_methods(results: Results) -> dict[str, str]:
    """Those that were found wrong, and how."""
    lines = [line for part in PARTS for line in results.data.get(f"{part} checks", {}).get("lines", [])]
    return {line["method"]: f"wrong: {line['failure']}" for line in lines if not line["passed"]}


def measure_operators(part: str, sizes: Sizes, results: Results, budget: Budget) -> None:
    """Time forward, backward and both, and count memory, for all heads and lengths that the budget allows."""
    timed = cold_stopwatch(torch.device(sizes.options.device))
    section = results.start(part, {"settings": sizes.to_dict(), "labels": {}, "points": [], "left_out": []})
    wrong = wrong_methods(results)
    usable = {}
    for heads in sizes.heads:
        methods = methods_of(part, sizes, heads)
        section["labels"] |= {name: method.label for name, method in methods.items()}
        usable[heads] = {name: m for name, m in methods.items() if not m.missing and name not in wrong}
        for name, method in methods.items():
            if name not in usable[heads]:
                reason = method.missing or wrong[name]
                section["left_out"].append({"heads": heads, "method": name, "reason": reason})
        if part == "flex" and usable[heads]:
            beside = all_methods(sizes, heads)
            usable[heads] |= {name: beside[name] for name in _BESIDE_FLEX if name not in wrong}
    for length in sizes.flex_lengths if part == "flex" else sizes.lengths:
        for heads, methods in usable.items():
            if methods:
                _measure_point(methods, sizes, heads, length, timed, section, results, budget)
    results.save()


def _measure_point(
    methods: dict[str, Method],
    sizes: Sizes,
    heads,
    length: int,
    timed,
    section: dict,
    results: Results,
    budget: Budget,
) -> None:
    """All methods at one length."""
    if budget.spent:
        section["left_out"].append({"heads": heads, "length": length, "reason": "no time left"})
        return
    tensors = random_tensors(*heads, length, sizes.options.head_dim, sizes.dtype, sizes.options.device)
    bound = _bind(methods, tensors, section["left_out"])
    section.setdefault("backend", _backend(tensors[0], sizes))
    for pass_name in PASSES:
        if budget.spent:
            section["left_out"].append({"heads": heads, "length": length, "pass": pass_name, "reason": "no time left"})
            continue
        measured = measure(
            lambda name, _, pass_name=pass_name: prepare(pass_name, bound[name], tensors),
            bound,
            length,
            device=torch.device(sizes.options.device),
            rounds=rounds_for(length, sizes.rounds),
            baseline="full" if "full" in bound else None,
            timed=timed,
        )
        for point in measured:
            fractions = _fractions(point, methods[point.contender].pairs, heads, pass_name, sizes, results)
            place = {"heads": heads, "pass": pass_name, "input_bytes": sum(x.nbytes for x in tensors)}
            section["points"].append({**place, **point.to_dict(), **fractions})
        results.save()
        times = {point.contender: f"{1e3 * point.time.median:.3g}" for point in measured if point.time}
        print(f"{heads} {length} {pass_name} ms: {times}", flush=True)


def _backend(query: torch.Tensor, sizes: Sizes) -> str:
    """The module that computes SE-Attn here: where Triton is missing, it is another than one would think."""
    options = SpanOptions(**sizes.options.span)
    layout = SequenceLayout.dense(1, query.shape[2])
    return choose("auto", "span", query, options, layout).__name__.rpartition(".")[2]


def _bind(methods: dict[str, Method], tensors: list[torch.Tensor], left_out: list[dict]) -> dict[str, Attend]:
    """The functions to time. Each runs once: its kernels are compiled here, and what cannot run says so."""
    bound = {}
    heads, length = [tensors[0].shape[1], tensors[1].shape[1]], tensors[0].shape[2]
    for name, method in methods.items():
        try:
            bound[name] = method.bind(*tensors[:3])
            prepare("forward+backward", bound[name], tensors)()
            prepare("forward", bound[name], tensors)()
        except torch.OutOfMemoryError:
            # Left to the measurement, which notes for each pass whether it ran out.
            torch.cuda.empty_cache()
        except Exception as error:
            bound.pop(name, None)
            left_out.append({"heads": heads, "length": length, "method": name, "reason": describe_error(error)})
    return bound


def _fractions(point, pairs, heads, pass_name: str, sizes: Sizes, results: Results) -> dict[str, float | None]:
    """The share of the device's measured rates that a method's necessary operations and bytes come to."""
    ceilings = results.data.get("ceilings")
    if ceilings is None or point.time is None or pairs is None:
        return {"matmul_fraction": None, "copy_fraction": None}
    head_dim, seconds = sizes.options.head_dim, point.time.median
    operations = costs.operations(pairs(point.length), heads[0], head_dim, pass_name)
    traffic = costs.traffic(*heads, point.length, head_dim, sizes.dtype.itemsize, pass_name)
    return {
        "matmul_fraction": operations / seconds / ceilings["matmul"]["flops_per_second"],
        "copy_fraction": traffic / seconds / ceilings["copy"]["bytes_per_second"],
    }
