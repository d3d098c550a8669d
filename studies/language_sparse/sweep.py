# SPDX-License-Identifier: Apache-2.0
"""Prune small language models at many moments, and train them for sparsity (AC/DC, gradual pruning, CrAM).

    python studies/language_sparse/sweep.py --seeds 3

A run that is pruned after t epochs is the dense one until then, and starts from its checkpoint; tests hold it to the
run from scratch, bit for bit. What is in the results is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from hylora.environment import environment
from hylora.files import write_atomically
from hylora.language import LanguageRecipe
from hylora.language.run import make_task
from hylora.language.task import LanguageTask
from hylora.training import run
from hylora.training.evaluation import evaluation_mode
from hylora.training.method import Method
from hylora.training.moment import Moment
from hylora.training.reporting import read_metrics
from vision_extras.copies import restored
from vision_extras.masks import Masks, prunable
from vision_extras.pruning import FisherTrace
from vision_extras.pruning.detector import DetectorRecipe, turned
from vision_extras.sparse import CramRecipe, SparseRecipe
from vision_extras.sparse.compression import compress
from vision_extras.sparse.cram import CompressionAware
from vision_extras.sparse.language import EvenEpochs, embeddings
from vision_extras.sparse.phased import Phased
from vision_extras.sparse.phases import Phase, plan_phases

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
# Bytes of the probe on which tr(F) is measured: sequences, and the length of each.
PROBE = (8, 32)


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of bytes, in whose names a recipe's model finds 256 of them and an end."""
    names = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({"<eos>": 0, **{name: place + 1 for place, name in enumerate(names)}}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>").save_pretrained(folder)


def kept(network: nn.Module) -> tuple[str, ...]:
    """What is not pruned: embeddings, and depthwise convolutions, which have four weights for each channel."""
    return (*embeddings(network), *(name for name, module in network.named_modules() if isinstance(module, nn.Conv1d)))


def once(at: int, sparsity: float, epochs: int) -> tuple[Phase, ...]:
    """Dense, and from an epoch on sparse; dense to the end where that is the last."""
    parts = (Phase(0, at, 0.0), Phase(at, epochs - at, sparsity))
    return tuple(part for part in parts if part.epochs)


class Study:
    """Trains one model in all ways, and notes what each came to.

    Args:
        recipe: file of the model's runs.
        updates: in an epoch.
        output: folder of the runs.
        results: file to write after each of them.
        overrides: for all of them.
    """

    def __init__(self, recipe: Path, updates: int, output: Path, results: Path, overrides: Sequence[str] = ()) -> None:
        self._file = recipe
        self._overrides = overrides
        self._output = output
        self._results = results
        self._epochs = EvenEpochs(updates)
        tree = self.recipe("", 0).to_tree()
        self.epochs = self._epochs.epoch(tree["training"]["steps"])
        self.found: dict[str, Any] = {"kind": "language_sparse", "updates": updates, "recipe": tree, "runs": []}
        if results.exists():
            self.found = json.loads(results.read_text())
            if self.found["recipe"] != json.loads(json.dumps(tree)):
                raise SystemExit(f"{results} is of another recipe; delete it, or name another folder with --results")

    def recipe(self, name: str, seed: int, *settings: str) -> LanguageRecipe:
        """The recipe of a run."""
        own = [f"training.seed={seed}", f"output.path={self._output / name}-{seed}", "training.resume=true"]
        return LanguageRecipe.load(self._file, [*self._overrides, *settings, *own])

    def dense(self, seed: int) -> None:
        """The dense run with tr(F) and the loss after each epoch, and a checkpoint of each."""
        every = self._epochs.updates
        recipe = self.recipe(
            "dense",
            seed,
            f"output.checkpoint_every={every}",
            f"output.keep_checkpoints={self.epochs}",
            f"evaluation.every={every}",
        )

        def methods(task: LanguageTask, network: nn.Module) -> list[Method]:
            (batch, *_) = task.feed.window(Moment(0, self.epochs * every, seed))
            probe = batch["input_ids"][: PROBE[0], : PROBE[1]]
            trace = FisherTrace(network, probe, lambda updates: updates % every == 0, draws=4, chunk=1)
            return [trace, self._phased(task, network, once(self.epochs, 0.0, self.epochs))]

        def course(folder: Path) -> dict[str, Any]:
            records = read_metrics(folder / "metrics.jsonl")
            trace = [record["fisher"] for record in records if "fisher" in record]
            errors = [record["fisher_error"] for record in records if "fisher_error" in record]
            losses = [record["eval_loss"] for record in records if "eval_loss" in record]
            seen = (end for end in range(1, len(trace) + 1) if turned(trace[:end], DetectorRecipe()))
            return {"fisher": trace, "fisher_error": errors, "losses": losses, "detected": next(seen, None)}

        self._train("dense", seed, recipe, methods, course)

    def pruned(self, seed: int, sparsity: float, at: int) -> None:
        """Pruned after so many epochs of the dense run."""
        name = f"once-{sparsity}-{at}"
        recipe, folder = self.recipe(name, seed), self._output / f"{name}-{seed}"
        if at and not folder.exists():
            checkpoint = f"step-{self._epochs.first_step(at):06d}"
            dense = self._output / f"dense-{seed}" / "checkpoints" / checkpoint
            shutil.copytree(dense, folder / "checkpoints" / checkpoint)
            recipe.save(folder / "recipe.yaml")
        self._train(
            "once",
            seed,
            recipe,
            lambda task, network: [self._phased(task, network, once(at, sparsity, self.epochs))],
            sparsity=sparsity,
            at=at,
        )

    def phases(self, seed: int, schedule: str, sparsity: float) -> None:
        """AC/DC (`alternating`) or gradual pruning, about as long in each phase as in section 3.5.2."""
        first, last, turn = (max(1, self.epochs // part) for part in (9, 6, 16))
        lengths = {"warmup": first, "last_dense": last, "last_sparse": last, "sparse": turn, "dense": turn}
        plan = plan_phases(SparseRecipe(schedule=schedule, sparsity=sparsity, **lengths), self.epochs)
        self._train(
            schedule,
            seed,
            self.recipe(f"{schedule}-{sparsity}", seed),
            lambda task, network: [self._phased(task, network, plan)],
            sparsity=sparsity,
        )

    def cram(self, seed: int, radius: float) -> None:
        """CrAM+-Multi over uniform shares, with dense gradients (section 5.5)."""
        recipe = CramRecipe(update="cram", levels=(0.5, 0.7, 0.9), radius=radius, masked=False, scope="local")

        def methods(task: LanguageTask, network: nn.Module) -> list[Method]:
            weights = partial(prunable, network, kept(network))
            return [CompressionAware(network, weights, recipe, nn.ModuleDict())]

        self._train("cram", seed, self.recipe(f"cram-{radius}", seed), methods, radius=radius)

    def _phased(self, task: LanguageTask, network: nn.Module, phases: tuple[Phase, ...]) -> Phased:
        task.model.masks = Masks()
        weights = partial(prunable, network, kept(network))
        return Phased(network, task.model.masks, weights, phases, self._epochs, scope="local", fresh_momentum=False)

    def _train(
        self,
        way: str,
        seed: int,
        recipe: LanguageRecipe,
        methods: Callable[[LanguageTask, nn.Module], list[Method]],
        more: Callable[[Path], dict[str, Any]] = lambda folder: {},
        **setting: Any,
    ) -> None:
        """Train and note the losses per byte: as trained, and pruned at once to each of the levels."""
        about = {"way": way, "seed": seed, **setting}
        if any(about.items() <= found.items() for found in self.found["runs"]):
            return
        made: list[tuple[LanguageTask, Accelerator]] = []

        def make(recipe: LanguageRecipe, accelerator: Accelerator) -> LanguageTask:
            task = make_task(recipe, accelerator)
            task.methods = methods(task, task.model.model)
            made.append((task, accelerator))
            return task

        result = run(recipe, make)
        if result.stopped_by is not None:
            raise SystemExit(f"stopped by {result.stopped_by}; the same command goes on from here")
        ((task, accelerator),) = made
        weights = prunable(task.model.model, kept(task.model.model))
        zeros = sum(int((weight == 0).sum()) for weight in weights.values())
        one_shot = {}
        for level in LEVELS:
            with restored(weights), evaluation_mode(task.model):
                compress(weights, level, "local")
                one_shot[str(level)] = task.evaluate(task.model, accelerator, lambda: None)["loss"]
        found = {
            **about,
            "loss": result.evaluation["loss"],
            "perplexity": math.exp(result.evaluation["loss"]),
            "zeros": zeros / sum(weight.numel() for weight in weights.values()),
            "one_shot": one_shot,
            **more(result.folder),
        }
        self.found["runs"].append(found)
        self.found["environment"] = environment()
        self._results.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._results, json.dumps(self.found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("llama", "bamba"), default=["llama", "bamba"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=20, help="of an epoch")
    parser.add_argument("--moments", type=int, nargs="+", default=[0, 1, 2, 4, 8, 12, 16])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.9, 0.8, 0.95], help="of those pruned once")
    parser.add_argument("--trained", type=float, nargs="+", default=[0.9], help="of AC/DC and gradual pruning")
    parser.add_argument("--radii", type=float, nargs="+", default=[0.005], help="of CrAM; an ascent of gradients")
    parser.add_argument("--output", type=Path, default=Path("outputs/language_sparse"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=Path("studies/language_sparse/results"))
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="for every run")
    given = parser.parse_args()
    write_tokenizer(given.output / "tokenizer")
    recipes = Path(__file__).parent / "recipes"
    for number, sparsity in enumerate(given.sparsities):
        for model in given.models:
            study = Study(
                recipes / f"{model}.yaml",
                given.updates,
                given.output / model,
                given.results / f"{model}.json",
                given.overrides,
            )
            for seed in range(given.seeds):
                study.dense(seed)
                for at in given.moments:
                    study.pruned(seed, sparsity, at)
                if number == 0:
                    for level in given.trained:
                        study.phases(seed, "alternating", level)
                        study.phases(seed, "gradual", level)
                    for radius in given.radii:
                        study.cram(seed, radius)


if __name__ == "__main__":
    main()
