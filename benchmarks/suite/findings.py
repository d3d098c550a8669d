# SPDX-License-Identifier: Apache-2.0
"""The part of the page that is about single kernels: where time goes, launches that were tried, what tools said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .best import best_launches
from .markdown import heads_of, lines_of, number, table

Data = dict[str, Any]
# Kernels of a table of times; what is below takes next to nothing.
_SHOWN = 14


def kernels(data: Data) -> Iterator[str]:
    """Whatever of it was found."""
    yield from _times(data)
    yield from _answers(data)
    yield from _launches(data)
    yield from _compiled(data)
    yield from _tools(data)


def _times(data: Data) -> Iterator[str]:
    lines, points = lines_of(data, "kernels", "lines"), lines_of(data, "kernels", "points")
    if not lines and not points:
        return
    yield "## Kernels"
    yield (
        "Microseconds of a forward and backward pass of SE-Attn by the Triton backend, kernel by kernel; in brackets "
        "the share of the measured matrix product's rate. Sink: a first block that every unit chooses."
    )
    peak = data.get("ceilings", {}).get("matmul", {}).get("flops_per_second")
    for selection in dict.fromkeys(point["selection"] for point in points):
        columns = list(dict.fromkeys((heads_of(p), p["inputs"]) for p in points if p["selection"] == selection))
        rows: dict[str, Data] = {f"**{name}**": {} for name in ("forward", "backward", "forward+backward")}
        for p in points:
            if p["selection"] == selection:
                rows[f"**{p['pass']}**"][heads_of(p), p["inputs"]] = f"{1e6 * p['seconds']:,.0f}"
        for line in lines:
            if line["selection"] == selection:
                rate = line["flops_per_second"]
                share = f" ({rate / peak:.2f})" if rate and peak else ""
                cell = f"{line['microseconds']:,.0f}{share}"
                rows.setdefault(f"`{line['kernel']}`", {})[heads_of(line), line["inputs"]] = cell
        cells = ([name, *(row.get(column, "") for column in columns)] for name, row in list(rows.items())[:_SHOWN])
        yield f"Each {selection} chooses:"
        yield table(("", *(f"{heads}, {inputs}" for heads, inputs in columns)), cells)


def _answers(data: Data) -> Iterator[str]:
    if lines := lines_of(data, "own chunks by a library", "lines"):
        yield "## Own chunks by a library"
        told = {None: "", True: "yes", False: "no"}
        rows = ((x["library"], x["question"], told[x["answer"]], _numbers(x["numbers"])) for x in lines)
        yield table(("library", "question", "answer", "numbers"), rows)


def _numbers(numbers: Data) -> str:
    shown = (
        f"{name}: {value:.3g}" if isinstance(value, float) else f"{name}: {value}" for name, value in numbers.items()
    )
    return "; ".join(shown)


def _launches(data: Data) -> Iterator[str]:
    points = lines_of(data, "tune", "points")
    if not points:
        return
    yield "## Launches"
    yield (
        "Milliseconds of the computation that a kernel is part of, under launches (rows, columns, warps, stages); of "
        "a whole pass with own chunks by a library, or none (and whether its backward repeats). The first of each is "
        "the one that is kept."
    )
    heads = list(dict.fromkeys(map(heads_of, points)))
    rows: dict[tuple, Data] = {}
    for p in points:
        rows.setdefault((p["kernel"], tuple(p["launch"].values())), {})[heads_of(p)] = f"{1e3 * p['seconds']:.4g}"
    yield table(("kernel", "launch", *heads), ((*key, *(row.get(h, "") for h in heads)) for key, row in rows.items()))
    best = [
        f"{x['kernel']} {tuple(x['launch'].values())} ({', '.join(map(heads_of, x['timed']))})"
        for x in best_launches(points)
        if x["gain"] > 1
    ]
    yield (
        "Faster than what is kept by more than noise, on average over the heads in brackets, which are all that the "
        f"kernel was timed for, and slower for none of them: {', '.join(best) or 'none'}."
    )


def _compiled(data: Data) -> Iterator[str]:
    if "compile" not in data:
        return
    lines, missing = lines_of(data, "compile", "lines"), lines_of(data, "compile", "left_out")
    spilled = {(k["kernel"], x["dtype"]): k["stack"] for x in lines for k in x["kernels"] if k["stack"]}
    told = ", ".join(f"{kernel} in {dtype} ({stack} bytes)" for (kernel, dtype), stack in spilled.items())
    seconds = data["compile"].get("seconds")
    yield "## Compiled"
    yield (
        f"{sum(len(x['kernels']) for x in lines)} kernels in {number(seconds, '.0f') or '?'} s, for {len(lines)} of "
        f"{len(lines) + len(missing)} kinds of call" + (" (see Left out)." if missing else ".")
    )
    if lines:
        yield f"Spills: {told or 'none'}."


def _tools(data: Data) -> Iterator[str]:
    if lines := lines_of(data, "tools", "lines"):
        yield "## Tools"
        rows = ((x["tool"], x["exit_code"] if x["finished"] else "cut off", _last(x["said"])) for x in lines)
        yield table(("tool", "exit code", "last line"), rows)


def _last(said: list[str]) -> str:
    return next((line.strip() for line in reversed(said) if line.strip()), "").replace("|", "/")
