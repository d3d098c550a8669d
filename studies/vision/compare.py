# SPDX-License-Identifier: Apache-2.0
"""Train every setting of a comparison with several seeds, and gather what each run came to in one file.

    python studies/vision/compare.py studies/vision/samplers.yaml --seeds 3 --output outputs/vision

Runs that are finished are kept: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from hylora.training.recipe_loading import parse_overrides, read_yaml
from hylora.training.reporting import read_metrics
from hylora.training.tasks import find_task

# Of each epoch the last record: what is scheduled, and what was measured.
_EVERY_EPOCH = ("epoch", "lr", "height", "width", "width_factor", "depth_factor", "sparsity", "fisher", "fisher_error",
                "kl_uniform", "eval_accuracy", "eval_loss", "eval_entropy_skewness", "eval_random_label_accuracy",
                "eval_true_label_accuracy")  # fmt: skip


def train(comparison: Path, setting: str, overrides: list[str], seed: int, output: Path) -> Path:
    """The folder of a setting's finished run."""
    plan = yaml.safe_load(comparison.read_text())
    folder = output / comparison.stem / f"{setting}-{seed}".replace(" ", "_").replace("/", "_")
    recipe = plan["settings"][setting].get("recipe", plan.get("recipe"))
    settings = [*plan.get("set", []), *plan["settings"][setting].get("set", []), *overrides]
    settings += [f"training.seed={seed}", f"output.path={folder}", "output.checkpoint_every=0"]
    if _finished(folder, recipe, settings):
        return folder
    command = [sys.executable, "-m", "hylora.train", recipe, *settings, "output.overwrite=true"]
    print(shlex.join(command[1:]), file=sys.stderr, flush=True)
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{setting!r} with seed {seed} failed:\n{done.stderr}")
    return folder


def _finished(folder: Path, recipe: str, settings: list[str]) -> bool:
    """Whether the folder holds the results of this very recipe."""
    path = folder / "results.json"
    if not path.exists():
        return False
    tree = parse_overrides(read_yaml(recipe), settings)
    kind = find_task(tree).recipe
    # What recipes have learned to say since stands at its default.
    wanted, found = (kind.from_tree(t).to_tree() for t in (tree, json.loads(path.read_text())["recipe"]))
    # How an old run was told to treat its folder is nothing to it.
    return found | {"output": None} == wanted | {"output": None}


def read(folder: Path) -> dict[str, Any]:
    """What a run came to, and its course by epochs."""
    found = json.loads((folder / "results.json").read_text())
    epochs: dict[int, dict[str, Any]] = {}
    epoch = 0
    for record in read_metrics(folder / "metrics.jsonl"):
        epoch = record.get("epoch", epoch)
        epochs[epoch] = epochs.get(epoch, {}) | {name: record[name] for name in _EVERY_EPOCH if name in record}
    return {**found, "epochs": list(epochs.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="YAML file: settings, each with a recipe and overrides")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", nargs="+", metavar="SETTING", help="of the file; by default all of them")
    parser.add_argument("--output", type=Path, default=Path("outputs/vision"), help="folder of the runs")
    parser.add_argument("--results", type=Path, help="the gathered file; by default beside the runs")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="for every run")
    arguments = parser.parse_intermixed_args()
    plan = yaml.safe_load(arguments.comparison.read_text())
    if unknown := set(arguments.settings or ()) - plan["settings"].keys():
        raise SystemExit(f"--settings {sorted(unknown)} must be of {', '.join(plan['settings'])}")
    results = arguments.results or arguments.output / f"{arguments.comparison.stem}.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    gathered: dict[str, Any] = {"kind": "comparison", "question": plan["question"], "environment": {}, "runs": []}
    for seed in range(arguments.seeds):
        for setting in arguments.settings or plan["settings"]:
            folder = train(arguments.comparison, setting, arguments.overrides, seed, arguments.output)
            run = read(folder)
            gathered["environment"] = run.pop("environment")
            gathered["runs"].append({"setting": setting, "seed": seed, **run})
            results.write_text(json.dumps(gathered, indent=1) + "\n")
    print(f"{len(gathered['runs'])} runs in {results}")


if __name__ == "__main__":
    main()
