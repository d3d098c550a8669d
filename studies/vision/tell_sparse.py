# SPDX-License-Identifier: Apache-2.0
"""Write the tables of results/sparse.json into docs/guides/sparse_figures.md, and draw docs/images/sparse.png.

    python studies/vision/tell_sparse.py
    python studies/vision/tell_sparse.py outputs/vision/sparse.json outputs/vision/sparse_cram.json

Comparisons that are named are first put together into results/sparse.json, without the courses of their runs. The
words around the tables are written by hand: read them again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
from tell import Run, accuracy, by_setting, head, line, mean, save

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "studies/vision/results/sparse.json"
PAGE = ROOT / "docs/guides/sparse_figures.md"
PICTURE = ROOT / "docs/images/sparse.png"
MARKERS = "<!-- tables: python studies/vision/tell_sparse.py -->", "<!-- end of tables -->"

LEVELS = ["0.5", "0.7", "0.8", "0.9", "0.95", "0.98", "2:4", "4bit"]
# What is trained sparse has a setting for each level.
METHODS = ["gradual", "AC/DC"]

# Mean and standard deviation over seeds, by level or by epoch.
Curve = dict[str, tuple[float, float]]


def cell(found: tuple[float, float] | None, digits: int = 1) -> str:
    """A mean with its deviation, which a single seed has none of; a dash for nothing measured."""
    if found is None:
        return "—"
    middle, spread = found
    return f"{middle:.{digits}f} ± {spread:.{digits}f}" if spread else f"{middle:.{digits}f}"


def at_once(runs: list[Run], name: str) -> dict[str, Curve]:
    """The accuracy in percent of settings whose networks are compressed at once, by level."""
    return {
        setting: {
            level: mean(group, lambda run, level=level: 100 * run["one_shot"][level][name])
            for level in group[0]["one_shot"]
        }
        for setting, group in by_setting(runs).items()
        if "one_shot" in group[0]
    }


def trained(runs: list[Run]) -> dict[str, Curve]:
    """The accuracy in percent of methods that train sparse networks, by the level that these have at the end."""
    settings = by_setting(runs)
    return {
        method: {
            level: mean(settings[f"{method} {level}"], accuracy) for level in LEVELS if f"{method} {level}" in settings
        }
        for method in METHODS
    }


def levels_table(runs: list[Run], name: str) -> Iterator[str]:
    """Accuracy by method and level, those of trained networks first."""
    yield from head(["dense", *LEVELS], "accuracy [%]")
    for method, curve in trained(runs).items():
        if curve:
            yield line([method, *(cell(curve.get(level)) for level in ("dense", *LEVELS))])
    settings = by_setting(runs)
    for setting, curve in at_once(runs, name).items():
        yield line([setting, cell(mean(settings[setting], accuracy)), *(cell(curve.get(level)) for level in LEVELS)])


def flops_table(runs: list[Run]) -> Iterator[str]:
    """What training and a pass forward take, of what they take dense."""
    yield from head(["training", "inference"], "FLOPs over dense")
    for setting, group in by_setting(runs).items():
        if "sparse" in group[0]:
            yield line([setting, *(cell(_share(group, name), 3) for name in ("training", "inference"))])


def _share(group: list[Run], name: str) -> tuple[float, float]:
    return mean(group, lambda run: run["sparse"]["flops"][name] / run["sparse"]["flops"][f"dense_{name}"])


def variants_table(runs: list[Run]) -> Iterator[str]:
    """AC/DC at 0.95, each with one thing done otherwise."""
    yield from head(["sparse [%]", "dense [%]", "filters gone [%]", "training", "inference"], "accuracy and FLOPs")
    for setting, group in by_setting(runs).items():
        if setting.startswith("AC/DC 0.95"):
            gone = mean(group, lambda run: 100 * (run["sparse"]["phases"][-1]["pruned_filters"] or 0))
            found = [mean(group, accuracy), _of_dense(group, "accuracy", 100), gone]
            costs = [_share(group, name) for name in ("training", "inference")]
            yield line([setting, *map(cell, found), *(cell(cost, 3) for cost in costs)])


def outcomes_table(runs: list[Run]) -> Iterator[str]:
    """Sparse outcomes beside dense ones: of the same run, and of gradual pruning that of the dense run."""
    yield from head(["accuracy at the end [%]", "dense outcome [%]", "agreement [%]", "cross entropy"], "run")
    for setting, group in by_setting(runs).items():
        if setting.startswith("AC/DC") or any("dense" in run for run in group):
            found = [mean(group, accuracy), *(_of_dense(group, name, 100) for name in ("accuracy", "agreement"))]
            yield line([setting, *map(cell, found), cell(_of_dense(group, "cross_entropy"), 3)])


def _of_dense(group: list[Run], name: str, scale: float = 1) -> tuple[float, float] | None:
    """What all of some runs measured of their dense outcomes."""
    measured = all(name in run.get("dense", {}) for run in group)
    return mean(group, lambda run: scale * run["dense"][name]) if measured else None


def mask_changes(runs: list[Run]) -> dict[str, Curve]:
    """How much of what AC/DC's masks keep is new, in percent, by the first epoch of the phase."""
    found: dict[str, Curve] = {}
    for setting, group in by_setting(runs).items():
        if setting.startswith("AC/DC"):
            found[setting] = {
                str(phase["first"]): mean(
                    group, lambda run, number=number: 100 * run["sparse"]["phases"][number]["mask_change"]
                )
                for number, phase in enumerate(group[0]["sparse"]["phases"])
                if phase["mask_change"] is not None
            }
    return found


def masks_table(runs: list[Run]) -> Iterator[str]:
    """Mask change by phase."""
    found = mask_changes(runs)
    epochs = sorted({epoch for curve in found.values() for epoch in curve}, key=int)
    yield from head(epochs, "new weights [%]")
    for setting, curve in found.items():
        yield line([setting, *(cell(curve.get(epoch), 2) for epoch in epochs)])


TABLES: dict[str, Callable[[list[Run]], Iterator[str]]] = {
    "Accuracy by sparsity, batch norms tuned": lambda runs: levels_table(runs, "tuned_accuracy"),
    "Accuracy by sparsity, batch norms as they are": lambda runs: levels_table(runs, "accuracy"),
    "FLOPs": flops_table,
    "AC/DC at 0.95": variants_table,
    "Sparse and dense outcomes": outcomes_table,
    "Mask change by phase": masks_table,
}


def told(runs: list[Run]) -> str:
    """All tables, as the page has them."""
    return "\n\n".join("\n".join([f"### {title}", "", *table(runs)]) for title, table in TABLES.items())


def draw(runs: list[Run], path: Path) -> None:
    """Accuracy by sparsity with batch norms tuned and as they are, and mask change by phase."""
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.4), layout="constrained")
    shares = [level for level in LEVELS if level.replace(".", "").isdigit()]
    for axis, (title, name) in zip(axes, (("tuned", "tuned_accuracy"), ("as they are", "accuracy")), strict=False):
        for setting, curve in {**trained(runs), **at_once(runs, name)}.items():
            places = [(number, curve[level]) for number, level in enumerate(shares) if level in curve]
            _line(axis, setting, places, "-" if setting in METHODS else "--")
        axis.set_xticks(range(len(shares)), shares)
        axis.set_title(f"batch norms {title}")
        axis.set_xlabel("share of weights that goes")
        axis.set_ylabel("accuracy [%]")
    for setting, curve in mask_changes(runs).items():
        _line(axes[2], setting, [(int(epoch), change) for epoch, change in curve.items()], "-")
    axes[2].set_yscale("symlog", linthresh=0.1)
    axes[2].set_ylim(0, 100)
    axes[2].set_title("masks of AC/DC")
    axes[2].set_xlabel("first epoch of the phase")
    axes[2].set_ylabel("kept weights that are new [%]")
    for axis in axes[1:]:
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)


def _line(axis: plt.Axes, name: str, places: list[tuple[float, tuple[float, float]]], style: str) -> None:
    if places:
        number = len(axis.containers)
        middles, spreads = zip(*(found for _, found in places), strict=True)
        axis.errorbar(
            [place for place, _ in places],
            middles,
            spreads,
            linestyle=style,
            marker="os^DvPX*<>hp"[number % 12],
            markersize=4,
            linewidth=1.8 if style == "-" else 1,
            capsize=2,
            color=plt.get_cmap("tab20")(number % 20),
            label=name,
        )


def gather(paths: list[Path]) -> dict:
    """Several comparisons as one, without the courses of runs and the machine's own paths."""
    found = [json.loads(path.read_text()) for path in paths]
    runs = [run for one in found for run in one["runs"]]
    for run in runs:
        run.pop("epochs", None)
        run["recipe"]["output"]["path"] = Path(run["recipe"]["output"]["path"]).name
    return {**found[0], "question": " ".join(dict.fromkeys(one["question"] for one in found)), "runs": runs}


def main() -> None:
    """Put together what is named, write the tables, and draw."""
    if sys.argv[1:]:
        RESULTS.write_text(json.dumps(gather([Path(path) for path in sys.argv[1:]]), indent=1) + "\n")
    runs = json.loads(RESULTS.read_text())["runs"]
    text = PAGE.read_text()
    before, after = text.split(MARKERS[0])[0], text.split(MARKERS[1])[1]
    PAGE.write_text(f"{before}{MARKERS[0]}\n\n{told(runs)}\n\n{MARKERS[1]}{after}")
    draw(runs, PICTURE)


if __name__ == "__main__":
    main()
