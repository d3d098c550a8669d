# SPDX-License-Identifier: Apache-2.0
"""Tables and a picture of the comparisons: what samplers and growth cost and bring.

    python studies/vision/tell.py outputs/vision

The folder holds `samplers.json` and `growth.json` of compare.py; one that is not there is left out. The tables go into
`vision.md` there, the picture into `vision.png`.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Run = dict[str, Any]


def by_setting(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each setting, one for each seed."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run["setting"], []).append(run)
    return found


def mean(runs: list[Run], value: Callable[[Run], float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds; the latter is 0 for one."""
    values = [value(run) for run in runs]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def accuracy(run: Run) -> float:
    """In percent."""
    return 100 * run["evaluation"]["accuracy"]


def samplers_table(runs: list[Run]) -> Iterator[str]:
    """The columns of tables 4.1 and 4.2, and what section 4.2.2 measures."""
    settings = by_setting(runs)
    first = next(iter(settings.values()))
    sides = sorted(first[0].get("accuracy_by_side", {}), key=int)
    columns = ["memory", "FLOPs", "updates", "time", "accuracy", "ECE", "embedding variance"]
    yield from head([*columns, *(f"at {side} px" for side in sides)], "sampler")
    for name, group in settings.items():
        ratios = [
            f"{mean(group, lambda run, key=key: run[key])[0] / mean(first, lambda run, key=key: run[key])[0]:.2f}x"
            for key in ("peak_bytes", "flops", "updates", "seconds")
        ]
        others = [
            "{:.2f} ± {:.2f}".format(*mean(group, accuracy)),
            "{:.4f} ± {:.4f}".format(*mean(group, lambda run: run["evaluation"]["ece"])),
            "{:.3f} ± {:.3f}".format(*mean(group, lambda run: run["embedding_variance_share"])),
        ]
        at = [f"{100 * mean(group, lambda run, side=side: run['accuracy_by_side'][side])[0]:.1f}" for side in sides]
        yield line([name, *ratios, *others, *at])


def growth_table(runs: list[Run]) -> Iterator[str]:
    """Accuracy by the share of the dense run's operations."""
    settings = by_setting(runs)
    dense = mean(next(iter(settings.values())), lambda run: run["flops"])[0]
    yield from head(["FLOPs", "updates", "accuracy"], "starts with")
    for name, group in settings.items():
        share = mean(group, lambda run: run["flops"])[0] / dense
        updates = mean(group, lambda run: run["updates"])[0]
        yield line([name, f"{share:.2f}x", f"{updates:.0f}", "{:.2f} ± {:.2f}".format(*mean(group, accuracy))])


def head(columns: Iterable[str], first: str = "") -> Iterator[str]:
    """The head of a table of numbers."""
    columns = list(columns)
    yield line([first, *columns])
    yield line(["---", *("--:" for _ in columns)])


def line(cells: Iterable[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def save(figure: Any, path: Path) -> None:
    """Write a picture with few colours: a tenth of the bytes, for what nobody tells apart."""
    from PIL import Image

    figure.savefig(path, dpi=80)
    Image.open(path).convert("RGB").quantize(48).save(path, optimize=True)


def draw(found: dict[str, Any], path: Path) -> None:
    """Accuracy by operations, of samplers and of what grows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(4.6 * len(found), 3.6), layout="constrained")
    for axis, (name, results) in zip([axes] if len(found) == 1 else axes, found.items(), strict=True):
        _draw_costs(axis, results["runs"])
        axis.set_title(TITLES[name])
    figure.savefig(path, dpi=100)


def _draw_costs(axis: Any, runs: list[Run]) -> None:
    settings = by_setting(runs)
    dense = mean(next(iter(settings.values())), lambda run: run["flops"])[0]
    for number, (name, group) in enumerate(settings.items()):
        middle, spread = mean(group, accuracy)
        share = mean(group, lambda run: run["flops"])[0] / dense
        axis.errorbar(share, middle, spread, marker="os^DvPX*<>hp"[number % 12], linestyle="", label=name, capsize=2)
    axis.set_xlabel("FLOPs, of the first")
    axis.set_ylabel("accuracy [%]")
    axis.legend(fontsize=6)


TITLES = {"samplers": "Samplers", "growth": "What starts small"}
TABLES = {
    "samplers": lambda results: samplers_table(results["runs"]),
    "growth": lambda results: growth_table(results["runs"]),
}


def main() -> None:
    folder = Path(sys.argv[1])
    found = {name: json.loads(path.read_text()) for name in TABLES if (path := folder / f"{name}.json").exists()}
    if not found:
        raise SystemExit(f"{folder} holds none of {', '.join(f'{name}.json' for name in TABLES)}")
    text = "\n\n".join("\n".join([f"## {TITLES[name]}", "", *TABLES[name](found[name])]) for name in found)
    (folder / "vision.md").write_text(text + "\n")
    draw(found, folder / "vision.png")
    print(text)


if __name__ == "__main__":
    main()
