# SPDX-License-Identifier: Apache-2.0
"""Draw pruning.png among the images from studies/pruning/results/sweep.json, and print what it shows as a table.

Run from the repository's root: `python docs/draw_pruning.py`. Other results and another picture may be named.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]


def by_moment(runs: Iterable[dict[str, Any]]) -> dict[int, list[float]]:
    """Accuracies of all seeds by the epoch of pruning."""
    found: dict[int, list[float]] = {}
    for run in runs:
        found.setdefault(run["at"], []).append(run["accuracy"])
    return dict(sorted(found.items()))


def course(dense: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """The mean over seeds of what was measured after each epoch."""
    epochs = list(zip(*(run["epochs"] for run in dense), strict=True))
    return [same[0]["epoch"] for same in epochs], [statistics.mean(e[name] for e in same) for same in epochs]


def spread(values: list[float]) -> float:
    """The standard deviation over seeds."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def row(setting: str, pruned: dict[int, list[float]], dense: list[dict[str, Any]]) -> str:
    """A setting's line of the table; moments that not all seeds share have no part in the best."""
    shared = {at: values for at, values in pruned.items() if len(values) == len(dense)}
    best = max(shared, key=lambda at: statistics.mean(shared[at]))
    epochs, trace = course(dense, "fisher")
    seen = ("/".join(str(run["detected"][signal]) for run in dense) for signal in ("fisher", "kl_uniform"))
    cells = [
        setting,
        f"{100 * course(dense, 'accuracy')[1][-1]:.1f}",
        *(f"{100 * statistics.mean(shared[at]):.1f} ± {100 * spread(shared[at]):.1f}" for at in (min(shared), best)),
        str(best),
        f"{100 * statistics.mean(shared[max(shared)]):.1f}",
        str(epochs[trace.index(max(trace))]),
        *seen,
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Draw each setting: accuracy by the epoch of pruning, over the dense run's accuracy and signals."""
    defaults = [ROOT / "studies/pruning/results/sweep.json", ROOT / "docs/images" / "pruning.png"]
    source, picture = [*map(Path, sys.argv[1:]), *defaults[len(sys.argv) - 1 :]]
    found = json.loads(source.read_text())
    # A sweep that still runs has settings without all seeds.
    seeds = len({run["seed"] for run in found["dense"]})
    named = [run["setting"] for run in found["pruned"] if run["at"] == 0]
    settings = [setting for setting in dict.fromkeys(named) if named.count(setting) == seeds]
    rows = -(-len(settings) // 3)
    figure, axes = plt.subplots(rows, 3, figsize=(11, 2.7 * rows), squeeze=False)
    print(
        "| pruned | dense, % | at 0 | at the best epoch | which | at the end | tr(F) highest | turn of tr(F) seen | "
        "of KL |\n" + "|---" * 9 + "|"
    )
    for axis, setting in zip(axes.flat, settings, strict=False):
        runs = [run for run in found["pruned"] if run["setting"] == setting]
        dense = [run for run in found["dense"] if run["setting"] == runs[0]["dense"]]
        pruned = by_moment(runs)
        print(row(setting, pruned, dense))
        means = [statistics.mean(values) for values in pruned.values()]
        spreads = [spread(values) for values in pruned.values()]
        axis.errorbar(
            list(pruned), means, spreads, color="#33658a", marker="o", markersize=3, label="pruned, at the end"
        )
        axis.plot(*course(dense, "accuracy"), color="#2f9e44", linestyle=":", label="dense, so far")
        # Pruned at the very end a network may know nothing, which would leave no room for the rest.
        axis.set_ylim(min(means[:-1] or means) - 0.01, 1.0)
        axis.set_title(setting, fontsize=9)
        axis.tick_params(labelsize=7)
        for name, color, label in (("fisher", "#d64550", "tr(F)"), ("kl_uniform", "#e0a100", "KL from uniform")):
            signal = axis.twinx()
            signal.plot(*course(dense, name), color=color, linewidth=0.9, label=label)
            signal.set_yticks([])
            if setting == settings[0]:
                axis.plot([], [], color=color, linewidth=0.9, label=label)
    axes[0, 0].legend(fontsize=6, loc="lower right")
    for axis in axes.flat[len(settings) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("epoch", fontsize=8)
    figure.tight_layout()
    figure.savefig(picture, dpi=80)


if __name__ == "__main__":
    main()
