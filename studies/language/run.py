# SPDX-License-Identifier: Apache-2.0
"""Answer questions of the study: fine-tune and measure what is missing, and keep the results.

    python studies/language/run.py                      # everything; two processes of one thread each
    python studies/language/run.py 5_ranks              # one question
    python studies/language/run.py --cell hybrid recall 0 --again

What is in results/ is not run again. Models that are not there are pre-trained first.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from cells import HERE, MODELS, QUESTIONS, Cell, Question, recipe_sha256, settings

from hylora_eval.demo.run import ENVIRONMENT

OUTPUTS = Path("outputs/language")


def pretrain(models: set[str]) -> None:
    """Train the models that are not there, side by side."""
    missing = [model for model in sorted(models) if not (OUTPUTS / model / "model.safetensors").exists()]
    if not missing:
        return
    script = ["bash", str(HERE / "pretrain.sh")]
    # One thread each, and this very Python: what a model comes to depends on both.
    os.environ |= {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    # Data first: they share it.
    subprocess.run([*script, "data"], check=True)
    statuses = [process.wait() for process in [subprocess.Popen([*script, model]) for model in missing]]
    if any(statuses):
        raise SystemExit("pre-training failed; the same command goes on where it stopped")


def run_cell(cell: Cell) -> float:
    """Fine-tune and measure; the seconds that took."""
    import torch
    from measure import Material
    from transformers import AutoTokenizer

    import hylora
    from hylora.environment import environment
    from hylora.files import write_atomically
    from hylora.language import LanguageRecipe, train
    from hylora.runs.fingerprint import weights_fingerprint

    torch.set_num_threads(1)
    started = time.perf_counter()
    path, overrides = OUTPUTS / cell.model, cell.overrides
    found: dict[str, Any] = {"kind": "study cell", **vars(cell), "overrides": overrides, "recipe": recipe_sha256()}
    model = hylora.load(path, "full", dtype=torch.float32)
    found["base"] = weights_fingerprint(model)
    own = None
    if overrides is not None:
        folder = OUTPUTS / "runs" / cell.name
        common = [f"model.path={path}", f"training.seed={cell.seed}", f"output.path={folder}"]
        recipe = LanguageRecipe.load(HERE / "recipes/tune.yaml", [*common, *overrides])
        train(recipe)
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        losses = [record["loss"] for record in lines if "loss" in record]
        found["training_loss"] = statistics.fmean(losses[-10:])
        model = hylora.load(folder, "full", dtype=torch.float32)
        attention = dict(recipe.to_tree()["attention"])
        name = attention.pop("name")
        own = None if name == "full" else (name, attention)
    found |= Material(AutoTokenizer.from_pretrained(path), cell.seed).measure(model, own)
    found |= {"seconds": round(time.perf_counter() - started), "environment": environment()}
    cell.path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(cell.path, json.dumps(found, indent=1) + "\n")
    return found["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)}; all by default")
    parser.add_argument("--cell", nargs=3, metavar=("MODEL", "SETTING", "SEED"), help="one alone")
    parser.add_argument("--again", action="store_true", help="run what is there already, too")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    if unknown := set(arguments.questions) - set(QUESTIONS):
        parser.error(f"{sorted(unknown)[0]!r} must be one of {', '.join(QUESTIONS)}")
    if arguments.cell:
        model, setting, seed = arguments.cell
        if model not in MODELS or setting not in settings():
            parser.error(f"--cell {model} {setting!r} must be of {', '.join(MODELS)} and of settings.yaml")
        cells = [Cell(model, setting, int(seed))]
    else:
        questions = [Question.load(name) for name in arguments.questions or QUESTIONS]
        # In order, each once.
        cells = list(dict.fromkeys(cell for question in questions for cell in question.cells()))
    cells = [cell for cell in cells if arguments.again or cell.result() is None]
    print(f"{len(cells)} cells to run", file=sys.stderr)
    pretrain({cell.model for cell in cells})
    # Read by the processes as they start: threads, and memory that stays with a process.
    os.environ.update(ENVIRONMENT)
    started = time.monotonic()
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(run_cell, cell): cell for cell in cells}
        for done, future in enumerate(as_completed(running), 1):
            name = running[future].name
            try:
                seconds = future.result()
            except Exception:
                print(f"{name} failed; the others are not begun", file=sys.stderr, flush=True)
                pool.shutdown(cancel_futures=True)
                raise
            left = (time.monotonic() - started) / done * (len(cells) - done) / 60
            print(f"{name}: {seconds} s; {done} of {len(cells)}, {left:.0f} minutes left", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
