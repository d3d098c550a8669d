# SPDX-License-Identifier: Apache-2.0
"""Draw sparse_language.png among the images from studies/language_sparse/results, and print what it shows as tables.

Run from the repository's root: `python docs/draw_sparse_language.py`.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
COLORS = {0.8: "#86bbd8", 0.9: "#33658a", 0.95: "#2f4858"}
WAYS = {"dense": "dense", "alternating": "AC/DC 90 %", "gradual": "gradual 90 %", "cram": "CrAM+-Multi"}


def told(values: list[float]) -> str:
    """The mean over seeds and its standard deviation, of perplexities."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {spread:.2f}"


def by_moment(runs: list[dict[str, Any]]) -> dict[float, dict[int, list[float]]]:
    """Perplexities of all seeds by sparsity and by the epoch of pruning."""
    found: dict[float, dict[int, list[float]]] = {}
    for run in runs:
        if run["way"] == "once":
            found.setdefault(run["sparsity"], {}).setdefault(run["at"], []).append(run["perplexity"])
    return {sparsity: dict(sorted(moments.items())) for sparsity, moments in sorted(found.items())}


def print_tables(model: str, runs: list[dict[str, Any]]) -> None:
    """Pruning by moment; the signal of each dense run; and one-shot pruning of what each way trained."""
    pruned = by_moment(runs)
    moments = sorted({at for found in pruned.values() for at in found})
    print(f"\n{model}: perplexity per byte, pruned once after epoch\n\n| | {' | '.join(map(str, moments))} |")
    print("|---" * (len(moments) + 1) + "|")
    for sparsity, found in pruned.items():
        print(f"| {100 * sparsity:g} % | {' | '.join(told(found[at]) if at in found else '' for at in moments)} |")
    print("\n| seed | tr(F) highest after epoch | there | at the end | turn seen | held-out loss lowest |")
    print("|---" * 6 + "|")
    for run in runs:
        if run["way"] == "dense":
            trace, losses = run["fisher"], run["losses"]
            cells = [run["seed"], 1 + trace.index(max(trace)), f"{max(trace):.0f}", f"{trace[-1]:.0f}"]
            print(f"| {' | '.join(map(str, [*cells, run['detected'], 1 + losses.index(min(losses))]))} |")
    levels = list(runs[0]["one_shot"])
    print(f"\n| trained | as trained | {' | '.join(f'{100 * float(level):g} %' for level in levels)} |")
    print("|---" * (len(levels) + 2) + "|")
    for way, label in WAYS.items():
        same = [run for run in runs if run["way"] == way]
        if same:
            shot = [told([math.exp(run["one_shot"][level]) for run in same]) for level in levels]
            print(f"| {label} | {told([run['perplexity'] for run in same])} | {' | '.join(shot)} |")


def main() -> None:
    """Draw each model: perplexity after the budget by the moment of pruning, over tr(F) of the dense runs."""
    files = sorted((ROOT / "studies/language_sparse/results").glob("*.json"))
    figure, axes = plt.subplots(1, len(files), figsize=(4 * len(files), 3.2), squeeze=False)
    for axis, file in zip(axes.flat, files, strict=True):
        runs = json.loads(file.read_text())["runs"]
        print_tables(file.stem, runs)
        dense = [run for run in runs if run["way"] == "dense"]
        for sparsity, found in by_moment(runs).items():
            means = [statistics.mean(values) for values in found.values()]
            spreads = [statistics.pstdev(values) for values in found.values()]
            color = COLORS[sparsity]
            axis.errorbar(
                list(found),
                means,
                spreads,
                color=color,
                marker="o",
                markersize=3,
                label=f"{100 * sparsity:g} % gone",
            )
        level = statistics.mean(run["perplexity"] for run in dense)
        axis.axhline(level, color="#2f9e44", linestyle=":", label="dense, at the end")
        axis.set_yscale("log")
        axis.set_yticks([], minor=True)
        ticks = [tick for tick in (5, 8, 10, 12, 15, 20, 30, 50, 80) if axis.get_ylim()[0] < tick < axis.get_ylim()[1]]
        axis.set_yticks(ticks, map(str, ticks))
        signal = axis.twinx()
        for run in dense:
            signal.plot(range(1, 1 + len(run["fisher"])), run["fisher"], color="#d64550", linewidth=0.7)
        signal.set_yticks([])
        axis.plot([], [], color="#d64550", linewidth=0.7, label="tr(F), each seed")
        axis.set_title(file.stem, fontsize=9)
        axis.set_xlabel("epoch of pruning", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0, 0].set_ylabel("perplexity per byte", fontsize=8)
    axes[0, 0].legend(fontsize=6, loc="upper left")
    figure.tight_layout()
    figure.savefig(ROOT / "docs/images/sparse_language.png", dpi=90)


if __name__ == "__main__":
    main()
