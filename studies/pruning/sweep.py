# SPDX-License-Identifier: Apache-2.0
"""Prune one network at many epochs (chapter 2): train it dense, and go on pruned from each of its epochs.

    python studies/pruning/sweep.py --seeds 3

A run that is pruned after t epochs is the dense one until then. So the dense run keeps a checkpoint of each epoch, and
a pruned one starts from that of epoch t - 1: its last dense epoch is trained again, at whose end the weights go. Tests
hold it to the run from scratch, bit for bit. What is in the results is not run again: the same command goes on
where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from hylora.environment import environment
from hylora.files import write_atomically
from hylora.training.checkpoint import load_checkpoint, save_checkpoint
from hylora.training.reporting import read_metrics
from vision_extras.pruning.detector import DetectorRecipe, turned
from vision_extras.recipe import ImageRecipe
from vision_extras.run import make_task, train

# The dense runs, and the ways to prune each of them (section 2.2).
DENSE = {
    "exponential": [],
    "cosine": ["optimizer.schedule.name=cosine", "optimizer.schedule.final=0"],
    "linear": ["optimizer.schedule.name=linear", "optimizer.schedule.final=0"],
    "weight decay 5e-3": ["optimizer.weight_decay=5e-3"],
    "weight decay 5e-5": ["optimizer.weight_decay=5e-5"],
}
PRUNED = {
    "global 90 %": ("exponential", ["pruning.sparsity=0.9"]),
    "global 80 %": ("exponential", ["pruning.sparsity=0.8"]),
    "global 95 %": ("exponential", ["pruning.sparsity=0.95"]),
    "local 90 %": ("exponential", ["pruning.sparsity=0.9", "pruning.scope=local"]),
    "Fisher 90 %": ("exponential", ["pruning.sparsity=0.9", "pruning.criterion=fisher"]),
    "cosine 90 %": ("cosine", ["pruning.sparsity=0.9"]),
    "linear 90 %": ("linear", ["pruning.sparsity=0.9"]),
    "weight decay 5e-3 90 %": ("weight decay 5e-3", ["pruning.sparsity=0.9"]),
    "weight decay 5e-5 90 %": ("weight decay 5e-5", ["pruning.sparsity=0.9"]),
}

# A pruned run measures nothing on its way; the Fisher information alone is needed to choose its weights.
_QUIET = ["evaluation.every=0", "signals.kl_uniform=false", "signals.every=1000000"]


def train_dense(recipe: ImageRecipe) -> list[dict[str, Any]]:
    """Train with a checkpoint of each epoch, unless that is done; gives what each epoch came to."""
    folder = Path(recipe.output.path)
    if not (folder / "results.json").exists():
        _train(recipe)
    epochs: list[dict[str, Any]] = [{} for _ in range(recipe.training.epochs)]
    epoch = 0
    for record in read_metrics(folder / "metrics.jsonl"):
        epoch = record.get("epoch", epoch)
        names = ("lr", "fisher", "fisher_error", "eval_accuracy", "eval_loss")
        epochs[epoch] |= {name.removeprefix("eval_"): record[name] for name in names if name in record}
        if "kl_uniform" in record:
            epochs[epoch].setdefault("kl_uniform", []).append(record["kl_uniform"])
    for number, found in enumerate(epochs):
        divergences = found["kl_uniform"]
        epochs[number] = {"epoch": number + 1, **found, "kl_uniform": sum(divergences) / len(divergences)}
    return epochs


def train_pruned(recipe: ImageRecipe, dense: Path) -> dict[str, Any]:
    """Train as the recipe says, from the dense run's checkpoint of the epoch before the weights go."""
    folder = Path(recipe.output.path)
    task = make_task(recipe, Accelerator())
    if recipe.pruning.at > 1 and not folder.exists():
        step = task.plan.first_step(recipe.pruning.at - 1)
        checkpoint = load_checkpoint(dense / "checkpoints" / f"step-{step:06d}")
        # The dense run has no masks and knows nothing of pruning.
        checkpoint.tensors["weights"] = {**task.model.state_dict(), **checkpoint.tensors["weights"]}
        checkpoint.state["methods"] |= {
            method.name: state for method in task.methods if (state := method.state()) is not None
        }
        save_checkpoint(folder / "checkpoints", checkpoint, keep=1)
        recipe.save(folder / "recipe.yaml")
    _train(recipe)
    found = json.loads((folder / "results.json").read_text())
    return {**found["evaluation"], "seconds": found["seconds"]}


def _train(recipe: ImageRecipe) -> None:
    result = train(recipe)
    if result.stopped_by is not None:
        raise SystemExit(f"stopped by {result.stopped_by}; the same command goes on from here")


def detected(epochs: list[dict[str, Any]]) -> dict[str, int | None]:
    """After how many epochs the turn of each signal is seen."""
    found = {}
    for signal in ("fisher", "kl_uniform"):
        values = [epoch[signal] for epoch in epochs]
        ends = range(1, len(values) + 1)
        found[signal] = next((end for end in ends if turned(values[:end], DetectorRecipe(signal=signal))), None)
    return found


class Sweep:
    """Runs what is not in the results yet.

    Args:
        recipe: file that all runs share.
        overrides: for all of them.
        output: folder of the runs.
        results: file to write after each of them.
    """

    def __init__(self, recipe: Path, overrides: list[str], output: Path, results: Path) -> None:
        self._recipe = recipe
        self._overrides = overrides
        self._output = output
        self._file = results
        tree = self.recipe([], 0, "").to_tree()
        self.results: dict[str, Any] = {"kind": "pruning", "recipe": tree, "dense": [], "pruned": []}
        if results.exists():
            self.results = json.loads(results.read_text())
            if self.results["recipe"] != json.loads(json.dumps(tree)):
                raise SystemExit(f"{results} is of another recipe; delete it, or name another file with --results")

    def recipe(self, settings: list[str], seed: int, name: str) -> ImageRecipe:
        """The recipe of a run."""
        own = [f"training.seed={seed}", f"output.path={self._output / name}", "training.resume=true"]
        return ImageRecipe.load(self._recipe, [*self._overrides, *settings, *own])

    def dense(self, name: str, seed: int) -> tuple[Path, dict[str, Any]]:
        """A dense run: its folder and what it came to."""
        folder = f"{name}-{seed}".replace(" ", "_")
        recipe = self.recipe(DENSE[name], seed, folder)
        updates = make_task(recipe, Accelerator()).plan.first_step(1)
        kept = [f"output.checkpoint_every={updates}", f"output.keep_checkpoints={recipe.training.epochs}"]
        epochs = train_dense(self.recipe([*DENSE[name], *kept], seed, folder))
        found = {"setting": name, "seed": seed, "detected": detected(epochs), "epochs": epochs}
        self._note("dense", found, ("setting", "seed"))
        return self._output / folder, found

    def pruned(self, name: str, seed: int, at: int, dense: Path) -> None:
        """A run pruned after so many epochs."""
        found = {"setting": name, "dense": PRUNED[name][0], "seed": seed, "at": at}
        if any(found.items() <= run.items() for run in self.results["pruned"]):
            return
        settings = [*DENSE[PRUNED[name][0]], *PRUNED[name][1], *_QUIET, f"pruning.at={at}"]
        settings += ["output.checkpoint_every=0", "output.keep_checkpoints=1"]
        folder = f"{name}-{seed}-{at}".replace(" ", "_").replace("%", "pc")
        found |= train_pruned(self.recipe(settings, seed, folder), dense)
        self._note("pruned", found, ("setting", "seed", "at"))

    def _note(self, kind: str, found: dict[str, Any], keys: tuple[str, ...]) -> None:
        others = [run for run in self.results[kind] if any(run[key] != found[key] for key in keys)]
        self.results[kind] = [*others, found]
        self.results["environment"] = environment()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, json.dumps(self.results, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/vision/pruning/mnist.yaml"))
    parser.add_argument("--settings", nargs="+", choices=PRUNED, default=list(PRUNED), metavar="SETTING")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--every", type=int, default=3, help="epochs from one moment of pruning to the next")
    parser.add_argument("--output", type=Path, default=Path("outputs/pruning"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=Path("studies/pruning/results/sweep.json"))
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="for every run")
    arguments = parser.parse_args()
    sweep = Sweep(arguments.recipe, arguments.overrides, arguments.output, arguments.results)
    for seed in range(arguments.seeds):
        for name in arguments.settings:
            folder, dense = sweep.dense(PRUNED[name][0], seed)
            last = len(dense["epochs"])
            moments = {*range(0, last, arguments.every), last, *dense["detected"].values()} - {None}
            for at in sorted(moments):
                sweep.pruned(name, seed, at, folder)
    print(f"{len(sweep.results['dense'])} dense and {len(sweep.results['pruned'])} pruned runs in {arguments.results}")


if __name__ == "__main__":
    main()
