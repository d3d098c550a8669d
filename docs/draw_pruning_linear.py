# SPDX-License-Identifier: Apache-2.0
"""Draw docs/images/pruning_linear.png from studies/pruning/results/linear.json, and print its losses as a table.

Run from the repository's root: `python docs/draw_pruning_linear.py`.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]


def mean_and_spread(runs: list[dict], at: int, loss: str) -> tuple[float, float]:
    """Over seeds, of a loss at the end of networks pruned after so many epochs."""
    values = [branch[loss] for run in runs for branch in run["pruned"] if branch["at"] == at]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    """Draw the losses (figure 2.14) and the singular values of the first seed (figure 2.15)."""
    found = json.loads((ROOT / "studies/pruning/results/linear.json").read_text())
    runs, setting = found["runs"], found["setting"]
    figure, axes = plt.subplots(2, 4, figsize=(11, 5))
    losses, *others = axes.flat
    print("| pruned after | train | test |\n|---|---|---|")
    for loss, color in (("train", "#33658a"), ("test", "#f26419")):
        points = [mean_and_spread(runs, at, loss) for at in setting["at"]]
        means, spreads = zip(*points, strict=True)
        losses.errorbar(setting["at"], means, spreads, color=color, marker="o", markersize=3, label=f"pruned, {loss}")
    for at in setting["at"]:
        cells = ("{:.1f} ± {:.1f}".format(*mean_and_spread(runs, at, loss)) for loss in ("train", "test"))
        print(f"| {at} | {' | '.join(cells)} |")
    looks = zip(*(run["dense"] for run in runs), strict=True)
    dense = [(same[0]["epoch"], statistics.mean(look["test"] for look in same)) for same in looks]
    losses.plot(*zip(*dense, strict=True), color="#2f9e44", linestyle=":", label="dense so far, test")
    losses.set_title("loss at the end", fontsize=9)
    losses.set_xlabel("pruned after epoch", fontsize=8)
    losses.legend(fontsize=6)
    for axis, (at, course) in zip(others, runs[0]["course"].items(), strict=True):
        epochs, *values = zip(*course, strict=True)
        for value in values:
            axis.plot(epochs, value, color="#f26419", linewidth=0.9)
        for value in setting["singular_values"]:
            axis.axhline(value, color="#33658a", linestyle="--", linewidth=0.8)
        axis.axvline(int(at), color="#999999", linewidth=0.8)
        axis.set_ylim(0, 5.3)
        axis.set_title(f"singular values, pruned after {at}", fontsize=9)
    for axis in axes.flat:
        axis.tick_params(labelsize=7)
    figure.tight_layout()
    figure.savefig(ROOT / "docs/images/pruning_linear.png", dpi=80)


if __name__ == "__main__":
    main()
