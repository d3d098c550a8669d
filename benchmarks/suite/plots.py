# SPDX-License-Identifier: Apache-2.0
"""The results as pictures, where matplotlib is installed."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from hylora_eval.runtime.picture import draw

# Figure 6.9 of the thesis: the time of attention layers by context length.
FIGURE_6_9 = {"full": "Full-Attn", "s2": "S2-Attn", "sw": "SW-Attn", "se": "SE-Attn"}


def draw_all(data: dict[str, Any], folder: Path) -> list[str]:
    """Time and memory by length for each kind of heads, speed-ups, and figure 6.9.

    Returns:
        The names of the files.
    """
    points = data.get("operator", {}).get("points", [])
    if not points:
        return []
    labels = data["operator"]["labels"]
    written = []
    for heads in dict.fromkeys(tuple(point["heads"]) for point in points):
        of_heads = [point for point in points if tuple(point["heads"]) == heads]
        name = f"attention_{heads[0]}_{heads[1]}.png"
        draw(_as_works(of_heads, labels), folder / name)
        written.append(name)
    # The thesis's model has as many KV heads as query heads.
    first = points[0]["heads"]
    shown = [point for point in points if point["contender"] in FIGURE_6_9 and point["heads"] == first]
    draw(_as_works(shown, FIGURE_6_9), folder / "figure_6_9.png")
    draw_speedups(points, labels, folder / "speedup.png")
    return [*written, "figure_6_9.png", "speedup.png"]


def _as_works(points: list[dict], labels: dict[str, str]) -> list[dict]:
    """Points as `hylora eval runtime` keeps them, in order of length, one line for each label."""
    ordered = sorted(points, key=lambda point: (list(labels).index(point["contender"]), point["length"]))
    return [{**point, "work": point["pass"], "contender": labels[point["contender"]]} for point in ordered]


def draw_speedups(points: list[dict], labels: dict[str, str], path: Path) -> None:
    """How many times as fast as full attention each method is, by length; a row for each kind of heads."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(dict.fromkeys(tuple(point["heads"]) for point in points))
    columns = list(dict.fromkeys(point["pass"] for point in points))
    ticks = sorted({point["length"] for point in points})
    figure = Figure(figsize=(4.2 * len(columns), 3.4 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for axis, (heads, work) in zip(axes.flat, product(rows, columns), strict=True):
        for number, (name, label) in enumerate(labels.items()):
            place = (heads, work, name)
            here = [x for x in points if x["speedup"] and (tuple(x["heads"]), x["pass"], x["contender"]) == place]
            if line := sorted((x["length"], x["speedup"]["median"]) for x in here):
                axis.plot(*zip(*line, strict=True), label=label, color=f"C{number}", marker="o", markersize=4)
        axis.axhline(1, color="#888888", linewidth=0.8)
        title = f"{work}, heads {heads[0]}/{heads[1]}"
        axis.set(xscale="log", yscale="log", xlabel="context length (tokens)", title=title)
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=30)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("times as fast as full attention")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=150)
