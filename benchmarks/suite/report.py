# SPDX-License-Identifier: Apache-2.0
"""The results as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .targets import by_place, verdicts

_PASSES = ("forward", "backward", "forward+backward", "decode")


def markdown(data: dict[str, Any]) -> str:
    """All sections that there are results for."""
    environment = data.get("environment", {})
    gpu = environment.get("gpu", "none")
    parts = [f"# Measured on {gpu if gpu != 'none' else 'a CPU'}"]
    if gpu == "none" or data.get("operator", {}).get("settings", {}).get("options", {}).get("device") == "cpu":
        parts.append("A trial of the program at tiny sizes on a CPU: the times mean nothing.")
    parts += [*_checks(data), *_ceilings(data), *_targets(data), *_operators(data), *_decode(data), *_steps(data)]
    parts += [*_planner(data), *_left_out(data)]
    parts += ["## Environment", "\n".join(f"- {key}: {value}" for key, value in environment.items())]
    return "\n\n".join(parts) + "\n"


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table of Markdown, numbers to the right."""
    header = list(header)
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _checks(data):
    lines = [
        line for section in ("operator checks", "flex checks", "decode checks") for line in _of(data, section, "lines")
    ]
    wrong = [line for line in lines if not line["passed"]]
    yield "## Checks"
    if "tests" in data:
        yield f"Tests on this device: {data['tests']['summary']}."
    yield (
        f"{len(lines)} comparisons with the reference in float64, {len(wrong)} of them wrong; what is wrong "
        "is not timed."
    )
    if wrong:
        rows = ((x["method"], _heads(x), x["dtype"], _number(x["error"]), x["failure"]) for x in wrong)
        yield table(("wrong", "heads", "dtype", "relative error", "how"), rows)


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
    points, labels = [], {}
    for part in ("operator", "flex"):
        points += _of(data, part, "points")
        labels |= data.get(part, {}).get("labels", {})
    places = by_place(points)
    names = [name for name in labels if any(name in methods for methods in places.values())]
    if not names:
        return
    yield "## Attention"
    backend = data["operator"].get("backend") if "operator" in data else None
    yield f"Medians over rounds in which the methods take turns. SE-Attn is computed by the {backend}."
    columns = ("heads", "pass", "length", *(labels[name] for name in names))
    ordered = _ordered(places)
    yield "Milliseconds:"
    yield table(columns, _cells(ordered, names, lambda point, _: f"{1e3 * point['time']['median']:.3g}"))
    yield "Times as fast as full attention:"
    yield table(columns, _cells(ordered, names, _speedup))
    yield "MiB beyond the inputs:"
    yield table(columns, _cells(ordered, names, lambda point, _: f"{point['peak_bytes'] / 2**20:.4g}"))
    for key, ceiling in (("matmul_fraction", "matrix product"), ("copy_fraction", "copy")):
        yield f"Share of the measured {ceiling}'s rate, of what the method cannot do without:"
        yield table(columns, _cells(ordered, names, lambda point, _, key=key: _number(point[key], ".2f")))


def _ordered(places):
    return sorted(places.items(), key=lambda item: (item[0][0], _PASSES.index(item[0][1]), item[0][2]))


def _cells(ordered, names, cell):
    for (heads, pass_name, length), methods in ordered:
        values = (cell(methods[name], methods) if name in methods else "" for name in names)
        yield heads, pass_name, f"{length:,}", *values


def _speedup(point, methods) -> str:
    return _number(point["speedup"] and point["speedup"]["median"], ".2f")


def _decode(data):
    places = by_place(_of(data, "decode", "points"))
    if not places:
        return
    labels = data["decode"]["labels"]
    names = [name for name in labels if any(name in methods for methods in places.values())]
    yield "## Decode step"
    yield "Attention of one new token, in microseconds; in brackets, times as fast as full attention."
    cell = lambda point, methods: f"{1e6 * point['time']['median']:.3g} ({_speedup(point, methods) or '-'})"  # noqa: E731
    yield table(
        ("heads", "pass", "tokens in the cache", *(labels[name] for name in names)),
        _cells(_ordered(places), names, cell),
    )


def _steps(data):
    points = _of(data, "step", "points")
    if not points:
        return
    yield "## Fine-tuning step"
    yield f"{data['step']['model']}; {data['step']['trained_parameters']:,} parameters are trained."
    rows = (
        (
            f"{point['length']:,}",
            point["contender"],
            _number(point["tokens_per_second"], ",.0f") or point["error"],
            _speedup(point, None),
            _number(point["peak_bytes"] and (point["peak_bytes"] + (point["resident_bytes"] or 0)) / 2**30, ".3g"),
        )
        for point in points
    )
    yield table(("length", "attention", "tokens/s", "times as fast as full", "peak GiB"), rows)


def _planner(data):
    if results := _of(data, "planner", "results"):
        yield "## Planned memory"
        rows = (
            (x["case"], f"{x['planned'] / 2**20:,.1f}", f"{x['measured'] / 2**20:,.1f}", f"{x['ratio']:.3f}")
            for x in results
        )
        yield table(("step", "planned MiB", "measured MiB", "planned / measured"), rows)


def _left_out(data):
    rows = []
    for section, content in data.items():
        for item in content.get("left_out", []) if isinstance(content, dict) else []:
            what = ", ".join(_heads(item) if key == "heads" else str(x) for key, x in item.items() if key != "reason")
            rows.append((section, what, item["reason"]))
        for point in content.get("points", []) if isinstance(content, dict) else []:
            if point["error"]:
                rows.append((section, f"{point['contender']}, {point['length']}", point["error"]))
    if rows:
        yield "## Left out"
        yield table(("part", "what", "why"), rows)


def _of(data, section: str, key: str) -> list:
    return data.get(section, {}).get(key, [])


def _heads(item) -> str:
    return "/".join(map(str, item["heads"]))


def _number(value, form: str = ".1e") -> str:
    return "" if value is None else format(value, form)
