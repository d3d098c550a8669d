# SPDX-License-Identifier: Apache-2.0
"""Train networks, transfer each to several tasks by linear and by full finetuning, and gather how accurate they are.

    python studies/vision/transfer.py studies/vision/transfer.yaml --seeds 3 --output outputs/vision/transfer

Runs that are finished are kept: the same command goes on where it was stopped. The tables are printed; --tell prints
those of a gathered file alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from chained import trained

from hylora.environment import environment
from vision_extras.batch_norms import recalibrate
from vision_extras.images import load_split
from vision_extras.masks import prunable
from vision_extras.models import load_network, save_network
from vision_extras.recipe import ImageRecipe
from vision_extras.sparse.compression import compress
from vision_extras.transfer.metrics import mean_increase, pruned_filters, task_difficulty

# Images on which batch norms are tuned.
_CALIBRATION = 1000


def pruned_at_once(dense: Path, level: float, folder: Path) -> None:
    """A dense run's network with its smallest weights taken away, and its batch norms tuned."""
    recipe = ImageRecipe.load(dense / "recipe.yaml")
    split, network = load_split(recipe.images), load_network(dense)
    compress(prunable(network), level)
    rows = [split.train[index] for index in range(min(_CALIBRATION, len(split.train)))]
    recalibrate(network, split.plain(rows, [None] * len(rows), recipe.sampler.shape)["images"].split(250))
    folder.mkdir(parents=True, exist_ok=True)
    save_network(network, folder)
    shutil.copy(dense / "recipe.yaml", folder)


def upstreams(plan: dict[str, Any], seed: int, output: Path) -> Iterator[tuple[str, Path]]:
    """The networks that are transferred, each with the folder of its run."""

    def folder(setting: str) -> Path:
        return output / f"{setting}-{seed}".replace(" ", "_").replace("/", "_")

    for setting, overrides in plan["settings"].items():
        trained(plan["upstream"], overrides, seed, folder(setting))
        yield setting, folder(setting)
    for setting, level in plan["one_shot"].items():
        pruned_at_once(folder("dense"), level, folder(setting))
        yield setting, folder(setting)


def accuracy_upstream(network: torch.nn.Module, folder: Path) -> float:
    """On the images held out of what it has learned from."""
    recipe = ImageRecipe.load(folder / "recipe.yaml")
    split = load_split(recipe.images)
    batch = split.plain([*split.held_out], [None] * len(split.held_out), recipe.sampler.shape)
    with torch.no_grad():
        found = torch.cat([network.eval()(images).argmax(1) for images in batch["images"].split(250)])
    return float((found == batch["labels"]).double().mean())


def transferred(plan: dict[str, Any], setting: str, seed: int, upstream: Path) -> Iterator[dict[str, Any]]:
    """What each transfer of a network came to."""
    for task, of in plan["tasks"].items():
        for mode, how in plan["modes"].items():
            overrides = [f"model.path={upstream}", *of, *how]
            if mode == "full" and setting != "dense":
                overrides.append("sparse.schedule=fixed")
            folder = upstream.with_name(f"{upstream.name}-{task}-{mode}".replace(" ", "_"))
            found = trained(plan["downstream"], overrides, seed, folder)
            record = {"setting": setting, "seed": seed, "task": task, "mode": mode, "seconds": found["seconds"]}
            yield {**record, "accuracy": found["evaluation"]["accuracy"], "flops": found["flops"]}


def tell(gathered: dict[str, Any]) -> str:
    """The gathered runs as tables in Markdown."""
    runs, networks = gathered["runs"], gathered["networks"]
    tasks, modes = (list(dict.fromkeys(run[key] for run in runs)) for key in ("task", "mode"))

    def accuracies(setting: str, mode: str) -> dict[str, float]:
        """By task, the mean over seeds."""
        return {
            task: statistics.fmean(
                run["accuracy"] for run in runs if (run["setting"], run["mode"], run["task"]) == (setting, mode, task)
            )
            for task in tasks
        }

    def row(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    heads = ["network", "accuracy", "filters gone"]
    heads += [f"{mode}: {what}" for mode in modes for what in (*tasks, "error over dense")]
    lines = [row(heads), row(["---"] * len(heads))]
    for setting in dict.fromkeys(run["setting"] for run in runs):
        mine = [network for network in networks if network["setting"] == setting]
        cells = [
            setting,
            *(f"{100 * statistics.fmean(n[key] for n in mine):.1f} %" for key in ("accuracy", "filters")),
        ]
        for mode in modes:
            found = accuracies(setting, mode)
            cells += [f"{100 * value:.1f} %" for value in found.values()]
            mean, error = mean_increase(found, accuracies("dense", mode))
            cells.append(f"{100 * mean:+.1f} % ({100 * (error or 0):.1f})")
        lines.append(row(cells))
    full, linear = (accuracies("dense", mode) for mode in ("full", "linear"))
    difficulty = (f"{task} {100 * task_difficulty(full[task], linear[task]):+.1f} %" for task in tasks)
    return "\n".join([*lines, "", f"Difficulty of tasks: {', '.join(difficulty)}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "study", type=Path, help="YAML file of networks, tasks and modes; with --tell what was gathered"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("outputs/vision/transfer"), help="folder of the runs")
    parser.add_argument("--results", type=Path, help="the gathered file; by default beside the runs")
    parser.add_argument("--tell", action="store_true", help="print the tables of a gathered file")
    arguments = parser.parse_args()
    if arguments.tell:
        print(tell(json.loads(arguments.study.read_text())))
        return
    plan = yaml.safe_load(arguments.study.read_text())
    results = arguments.results or arguments.output / f"{arguments.study.stem}.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    gathered = {"kind": "transfer", "question": plan["question"], "environment": environment()}
    gathered |= {"networks": [], "runs": []}
    for seed in range(arguments.seeds):
        for setting, folder in upstreams(plan, seed, arguments.output):
            network = load_network(folder)
            found = {"accuracy": accuracy_upstream(network, folder), "filters": pruned_filters(network)}
            gathered["networks"].append({"setting": setting, "seed": seed, **found})
            gathered["runs"] += transferred(plan, setting, seed, folder)
            results.write_text(json.dumps(gathered, indent=1) + "\n")
            print(f"{setting}, seed {seed}", flush=True)
    print(tell(gathered))


if __name__ == "__main__":
    main()
