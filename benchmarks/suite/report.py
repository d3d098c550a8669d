# SPDX-License-Identifier: Apache-2.0
"""The results as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .findings import kernels
from .markdown import heads_of, lines_of, number, table
from .targets import by_place, verdicts

_PASSES = ("forward", "backward", "forward+backward", "decode")
# Why something was left out: the page has a column for the reason, and leaves the traceback to the file.
_TOLD = ("reason", "traceback")


def markdown(data: dict[str, Any]) -> str:
    """All sections that there are results for."""
    environment = data.get("environment", {})
    gpu = environment.get("gpu", "none")
    parts = [f"# Measured on {gpu if gpu != 'none' else 'a CPU'}"]
    if gpu == "none" or data.get("operator", {}).get("settings", {}).get("options", {}).get("device") == "cpu":
        parts.append(
            "A trial of the program at tiny sizes on a CPU: the times mean nothing. Kernels lists torch's operators."
        )
    parts += [*_checks(data), *_ceilings(data), *_targets(data), *_operators(data), *_decode(data), *kernels(data)]
    parts += [*_steps(data), *_planner(data), *_left_out(data)]
    parts += ["## Environment", "\n".join(f"- {key}: {value}" for key, value in environment.items())]
    return "\n\n".join(parts) + "\n"


def _checks(data):
    sections = ("kernel checks", "operator checks", "flex checks", "decode checks")
    lines = [line for section in sections for line in lines_of(data, section, "lines")]
    wrong = [line for line in lines if not line["passed"]]
    yield "## Checks"
    if "tests" in data:
        yield f"Tests on this device: {data['tests']['summary']}."
    yield (
        f"{len(lines)} comparisons, of kernels with torch in float32 and of methods with the reference in float64, "
        f"{len(wrong)} of them wrong; a method that is wrong is not timed."
    )
    if wrong:
        rows = (
            (
                x.get("method") or f"{x['kernel']}, {x['selection']}",
                heads_of(x),
                f"{x['length']:,}",
                x["dtype"],
                ", ".join(f"{name} {number(error)}" for name, error in x["errors"].items()),
                x["failure"],
            )
            for x in wrong
        )
        yield table(("wrong", "heads", "length", "dtype", "relative errors", "how"), rows)


def _ceilings(data):
    if ceilings := data.get("ceilings"):
        matmul, copy = ceilings["matmul"], ceilings["copy"]
        yield "## Ceilings"
        yield (
            f"{matmul['flops_per_second'] / 1e12:.4g} TFLOP/s, a {matmul['dtype']} matrix product of side "
            f"{matmul['side']}; {copy['bytes_per_second'] / 1e9:.4g} GB/s, read and written, a copy of "
            f"{copy['bytes'] / 2**20:.4g} MiB."
        )


def _targets(data):
    yield "## Targets"
    rows = [
        (v.what, v.heads, v.pass_name, f"{v.length:,}", v.bound, f"{v.measured:.3g}", "yes" if v.met else "no")
        for v in verdicts(data)
    ]
    header = ("target", "heads", "pass", "length", "bound", "measured", "met")
    yield table(header, rows) if rows else "None of the points that targets are set for was measured."


def _operators(data):
    points = [point for part in ("operator", "flex") for point in lines_of(data, part, "points")]
    labels = {**data.get("operator", {}).get("labels", {}), **data.get("flex", {}).get("labels", {})}
    places = by_place(points)
    if not places:
        return
    yield "## Attention"
    backend = data.get("operator", {}).get("backend")
    yield f"Medians over rounds in which the methods take turns. SE-Attn is computed by the {backend}."
    share = "Share of the measured {}'s rate, of what the method cannot do without:"
    for title, cell in (
        ("Milliseconds:", lambda point: f"{1e3 * point['time']['median']:.3g}"),
        ("Times as fast as full attention:", _speedup),
        ("MiB beyond the inputs:", lambda point: f"{point['peak_bytes'] / 2**20:.4g}"),
        (share.format("matrix product"), lambda point: number(point["matmul_fraction"], ".2f")),
        (share.format("copy"), lambda point: number(point["copy_fraction"], ".2f")),
    ):
        yield title
        yield _by_method(places, labels, cell)


def _by_method(places, labels, cell, length="length"):
    """A table with a row for each place and a column for each method that was measured at any of them."""
    names = [name for name in labels if any(name in methods for methods in places.values())]
    ordered = sorted(places.items(), key=lambda item: (item[0][0], _PASSES.index(item[0][1]), item[0][2]))
    rows = (
        (heads, pass_name, f"{tokens:,}", *(cell(methods[name]) if name in methods else "" for name in names))
        for (heads, pass_name, tokens), methods in ordered
    )
    return table(("heads", "pass", length, *(labels[name] for name in names)), rows)


def _speedup(point) -> str:
    return number(point["speedup"] and point["speedup"]["median"], ".2f")


def _decode(data):
    if places := by_place(lines_of(data, "decode", "points")):
        yield "## Decode step"
        yield "Attention of one new token, in microseconds; in brackets, times as fast as full attention."
        cell = lambda point: f"{1e6 * point['time']['median']:.3g} ({_speedup(point) or '-'})"  # noqa: E731
        yield _by_method(places, data["decode"]["labels"], cell, "tokens in the cache")


def _steps(data):
    points = lines_of(data, "step", "points")
    if not points:
        return
    yield "## Fine-tuning step"
    yield f"{data['step']['model']}; {data['step']['trained_parameters']:,} parameters are trained."
    rows = (
        (
            f"{point['length']:,}",
            point["contender"],
            number(point["tokens_per_second"], ",.0f") or point["error"],
            _speedup(point),
            number(point["peak_bytes"] and (point["peak_bytes"] + (point["resident_bytes"] or 0)) / 2**30, ".3g"),
        )
        for point in points
    )
    yield table(("length", "attention", "tokens/s", "times as fast as full", "peak GiB"), rows)


def _planner(data):
    if results := lines_of(data, "planner", "results"):
        yield "## Planned memory"
        yield planned(results)


def planned(results: Iterable[dict[str, Any]]) -> str:
    """Planned and measured memory as a table, as in the documentation."""
    rows = (
        (x["case"], f"{x['planned'] / 2**20:,.1f}", f"{x['measured'] / 2**20:,.1f}", f"{x['ratio']:.3f}")
        for x in results
    )
    return table(("step", "planned MiB", "measured MiB", "planned / measured"), rows)


def _left_out(data):
    rows = []
    for section in data:
        for item in lines_of(data, section, "left_out"):
            place = (heads_of(item) if key == "heads" else x for key, x in item.items() if key not in _TOLD)
            rows.append((section, ", ".join(map(str, place)), item["reason"]))
        for point in lines_of(data, section, "points"):
            if point.get("error"):
                rows.append((section, f"{point['contender']}, {point['length']}", point["error"]))
    if rows:
        yield "## Left out"
        yield "What failed has its traceback in gpu.json."
        yield table(("part", "what", "why"), rows)
