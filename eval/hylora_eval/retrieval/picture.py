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
    """Draw hit rates, or mass where there are no needles: a panel for each task and length, a bar for each rule.

    A mark across a bar is chance; a hollow diamond is the hit rate with another token's query.

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
        rules = result["rules"]
        sizes = sorted({rule["options"]["block_size"] for rule in rules})
        what, random, error = (
            ("hit_rate", "chance", "standard_error")
            if rules[0]["hit_rate"] is not None
            else ("mass", "mass_of_random", "mass_standard_error")
        )
        width = 0.8 / len(sizes)
        for number, size in enumerate(sizes):
            shown = [rule for rule in rules if rule["options"]["block_size"] == size and rule[what] is not None]
            at = [names.index(rule["rule"]) + (number - (len(sizes) - 1) / 2) * width for rule in shown]
            errors = [100 * (rule[error] or 0) for rule in shown]
            color = _COLORS[number % len(_COLORS)]
            shares = [100 * rule[what] for rule in shown]
            panel.barh(at, shares, width, xerr=errors, color=color, ecolor="#555555", label=f"blocks of {size}")
            panel.scatter([100 * rule[random] for rule in shown], at, marker="|", color="#000000", zorder=3)
            others = [(100 * rule["other_query"], y) for rule, y in zip(shown, at, strict=True) if rule["other_query"]]
            if others and what == "hit_rate":
                panel.scatter(*zip(*others, strict=True), marker="D", s=14, facecolors="white", edgecolors="#000000")
        panel.set(xlim=(0, 100), title=f"{result['task']}, {result['length']} tokens")
        panel.set_xlabel("needles retrieved, %" if what == "hit_rate" else "mass of candidates retrieved, %")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    axes[-1].legend(fontsize="small", loc="lower right")
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
