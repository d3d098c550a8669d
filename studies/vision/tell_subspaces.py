# SPDX-License-Identifier: Apache-2.0
"""Draw subspaces.png among the documentation's images from results/subspaces_*.json, and print its tables.

    python studies/vision/tell_subspaces.py

A folder of other results and another picture may be named; comparisons that are not there are left out.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
from tell import Run, by_setting, head, line, mean, save

ROOT = Path(__file__).parents[2]
# What is compared, and what a level is there.
COMPARISONS = {
    "sparsity": ("Sparsity", "share of weights that goes"),
    "high_sparsity": ("High sparsity", "share of weights that goes"),
    "transformers": ("Sparsity of a transformer", "share of weights that goes"),
    "width": ("Width", "share of channels that stays"),
    "bits": ("Bits", "bits"),
}


def along(runs: list[Run], name: str, scale: float = 100) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation over seeds of what was measured at each level; in percent, unless told otherwise."""
    return {
        level: mean(runs, lambda run, level=level: scale * run["curve"][level][name]) for level in runs[0]["curve"]
    }


def curves(runs: Iterable[Run]) -> Iterator[tuple[str, dict[str, tuple[float, float]]]]:
    """The accuracy along each setting, along the lines reversed, and with batch norms calibrated at each level."""
    for suffix, name in (("", ""), (", reversed", "reversed_"), (", calibrated", "recalibrated_")):
        for setting, group in by_setting(runs).items():
            if f"{name}accuracy" in next(iter(group[0]["curve"].values())):
                yield setting + suffix, along(group, f"{name}accuracy")


def table(runs: list[Run]) -> Iterator[str]:
    """Accuracy by level, of each setting."""
    yield from head(runs[0]["curve"])
    for name, curve in curves(runs):
        yield line([name, *(f"{middle:.1f} ± {spread:.1f}" for middle, spread in curve.values())])


def drift_table(runs: list[Run]) -> Iterator[str]:
    """How far the stored means of batch norms are from those of batches, by level, of the settings that have any."""
    drifting = [run for run in runs if "drift" in next(iter(run["curve"].values()))]
    if drifting:
        yield from head(drifting[0]["curve"])
    for name, group in by_setting(drifting).items():
        yield line([name, *(f"{middle:.3g}" for middle, _ in along(group, "drift", 1).values())])


def costs_table(runs: list[Run]) -> Iterator[str]:
    """What each level takes of what the weakest takes, by the first setting."""
    group = next(iter(by_setting(runs).values()))
    levels = list(group[0]["costs"])
    yield from head(levels)
    first = group[0]["costs"][levels[0]]
    for name in ("parameters", "bytes", "operations", "seconds"):
        if name not in first:
            continue
        key = "relative_seconds" if name == "seconds" else name
        shares = [
            statistics.median(run["costs"][level][key] / run["costs"][levels[0]][key] for run in group)
            for level in levels
        ]
        yield line([name, *(f"{share:.3f}x" for share in shares)])


def draw(found: dict[str, list[Run]], path: Path) -> None:
    """A panel for each comparison."""
    figure, axes = plt.subplots(-(-len(found) // 2), 2, figsize=(11, 3.2 * -(-len(found) // 2)), layout="constrained")
    for axis, (name, runs) in zip(axes.flat, found.items(), strict=False):
        title, unit = COMPARISONS[name]
        shown = [(setting, curve) for setting, curve in curves(runs) if not setting.endswith("calibrated")]
        for number, (setting, curve) in enumerate(shown):
            middles, spreads = zip(*curve.values(), strict=True)
            ours, backwards = setting.startswith("LCS"), setting.endswith("reversed")
            axis.errorbar(
                range(len(curve)),
                middles,
                spreads if ours and not backwards else None,
                linestyle=":" if backwards else "-" if ours else "--",
                linewidth=1.8 if ours else 1,
                marker=".",
                capsize=2,
                color=plt.get_cmap("tab20")(number % 20),
                label=setting,
            )
        axis.set_xticks(range(len(curve)), list(curve), fontsize=8)
        axis.set_xlabel(unit)
        axis.set_ylabel("accuracy [%]")
        axis.set_title(title)
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    for axis in axes.flat[len(found) :]:
        axis.axis("off")
    save(figure, path)


def read(folder: Path) -> dict[str, list[Run]]:
    """The runs of each comparison that is there."""
    files = {name: folder / f"subspaces_{name}.json" for name in COMPARISONS}
    return {name: json.loads(path.read_text())["runs"] for name, path in files.items() if path.exists()}


def main() -> None:
    """Draw, and print the tables."""
    defaults = [ROOT / "studies/vision/results", ROOT / "docs/images" / "subspaces.png"]
    folder, picture = [*map(Path, sys.argv[1:]), *defaults[len(sys.argv) - 1 :]]
    found = read(folder)
    draw(found, picture)
    for name, runs in found.items():
        print(f"\n### {COMPARISONS[name][0]}\n")
        for rows in (table, drift_table, costs_table):
            print("\n".join([*rows(runs), ""]))


if __name__ == "__main__":
    main()
