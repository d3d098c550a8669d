# SPDX-License-Identifier: Apache-2.0
"""How often each rule finds the needle, beside chance and beside what full attention would choose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["draw"]

# Told apart by colour-blind readers, and in print by their order.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")


def draw(results: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw a panel for each task and length, a bar for each rule and block size.

    Its length is the hit rate of needles that full attention finds; of all, where it finds none; or mass, where there
    are no needles. A line across it is chance, a diamond what another token's query hits.

    Args:
        results: of a result file of `hylora eval retrieval`.
        path: of the picture; its ending names the format.
        title: above it.

    Raises:
        ValueError: if the format is not known.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(rule["rule"] for result in results for rule in result["rules"]))
    figure = Figure(figsize=(1.8 + 3.4 * len(results), 1.4 + 0.34 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(results), squeeze=False, sharey=True)[0]
    for panel, result in zip(axes, results, strict=True):
        sizes = sorted({rule["options"]["block_size"] for rule in result["rules"]})
        width = 0.8 / len(sizes)
        for number, size in enumerate(sizes):
            bars = [_bar(rule) for rule in result["rules"] if rule["options"]["block_size"] == size]
            at = [names.index(bar["rule"]) + (number - (len(sizes) - 1) / 2) * width for bar in bars]
            style = {"color": _COLORS[number % len(_COLORS)], "ecolor": "#555555", "label": f"blocks of {size}"}
            panel.barh(at, [bar["share"] for bar in bars], width, xerr=[bar["error"] for bar in bars], **style)
            panel.scatter([bar["chance"] for bar in bars], at, marker="|", color="#000000", zorder=3)
            others = [(bar["other"], place) for bar, place in zip(bars, at, strict=True) if bar["other"] is not None]
            if others:
                panel.scatter(*zip(*others, strict=True), marker="D", s=14, facecolors="white", edgecolors="#000000")
        panel.set(xlim=(0, 100), title=f"{result['task']}, {result['length']} tokens", xlabel=bars[0]["what"])
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize="small", loc="outside lower center", ncols=4)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def _bar(rule: dict[str, Any]) -> dict[str, Any]:
    """What is drawn of a rule, in per cent."""
    if rule["hit_rate"] is not None:
        found, what = rule["attended"] or rule, "needles found, %"
        shares = (found["hit_rate"], found["standard_error"], found["chance"], found["other_query"])
    else:
        what = "mass found, %"
        shares = (rule["mass"], rule["mass_standard_error"], rule["mass_of_random"], None)
    share, error, chance, other = (None if value is None else 100 * value for value in shares)
    return {
        "rule": rule["rule"], "what": what, "share": share or 0, "error": error or 0, "chance": chance or 0,
        "other": other,
    }  # fmt: skip
