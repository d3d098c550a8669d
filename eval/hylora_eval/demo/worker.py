# SPDX-License-Identifier: Apache-2.0
"""One of the demo's processes: fine-tunes and measures one model after another on one thread.

`python -m hylora_eval.demo.worker FOLDER NAME ...` reads the folder's `settings.json`, and for each name ("se-1" is
variant se with seed 1) writes `results/NAME.json`. What comes next is printed, a line each.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import hylora
from hylora.demo.miniature import ASSETS, load_miniature
from hylora.files import write_atomically
from hylora.language import LanguageRecipe, train
from hylora_eval.demo.measure import EvaluationData, measure
from hylora_eval.demo.settings import MIXTURE, NOT_TUNED, VARIANTS, DemoSettings, Variant

__all__ = ["run_folder", "tuning_recipe"]


def tuning_recipe(folder: Path, variant: Variant, seed: int, settings: DemoSettings) -> LanguageRecipe:
    """The recipe of one fine-tuning run, an ordinary recipe of this library.

    Args:
        folder: of the demo, which holds the seed's data.
        variant: the attention to train with.
        seed: of data and weights.
        settings: of the demo.
    """
    data = folder / "data" / f"seed-{seed}"
    return LanguageRecipe.from_tree(
        {
            "model": {"path": str(ASSETS)},
            "attention": {"name": variant.attention, **variant.options},
            "adapter": {"variant": "hylora", "r": settings.r, "lora_alpha": 2 * settings.r},
            "data": {
                "sources": [
                    {"path": str(data / "recall.jsonl"), "kind": "chat", "weight": MIXTURE["recall"]},
                    {"path": str(data / "facts.jsonl"), "kind": "chat", "weight": MIXTURE["facts"]},
                    {"path": str(data / "text.jsonl"), "weight": MIXTURE["text"]},
                ],
                "cache_dir": str(folder / "cache"),
            },
            "optimizer": {"lr": settings.lr},
            "training": {
                "steps": settings.steps,
                "global_batch_size": settings.batch,
                "batch_size": settings.batch,
                "sequence_length": settings.tuned_length,
                "seed": seed,
                "gradient_checkpointing": False,
                "mixed_precision": "float32",
                "loss_slice": 4096,
            },
            "evaluation": {"at_end": False},
            "tracking": {"progress": False},
            "output": {"path": str(run_folder(folder, variant, seed)), "overwrite": True, "checkpoint_every": 0},
        }
    )


def run_folder(folder: Path, variant: Variant, seed: int) -> Path:
    """Where a fine-tuning run lives."""
    return folder / "runs" / f"{variant.name}-{seed}"


def _tune(folder: Path, variant: Variant, seed: int, settings: DemoSettings) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Fine-tune, and load the result as anyone would."""
    run = train(tuning_recipe(folder, variant, seed, settings)).folder
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if "loss" in record and "seconds" in record]
    model = hylora.load(run, dtype=torch.float32)
    return model, {
        "final_loss": statistics.fmean(record["loss"] for record in records[-10:]),
        "seconds_per_step": statistics.median(record["seconds"] for record in records),
    }


def main(folder: Path, names: list[str]) -> None:
    """Do the jobs that are not done yet, in order."""
    torch.set_num_threads(1)
    settings = DemoSettings(**json.loads((folder / "settings.json").read_text(encoding="utf-8")))
    variants = {variant.name: variant for variant in (NOT_TUNED, *VARIANTS)}
    data = EvaluationData.build(settings)
    for name in names:
        variant_name, _, seed = name.rpartition("-")
        variant, started = variants[variant_name], time.perf_counter()
        tuning: dict[str, Any] = {}
        if variant is NOT_TUNED:
            model = load_miniature()
        else:
            _say(name, "fine-tuning")
            model, tuning = _tune(folder, variant, int(seed), settings)
        tuned = time.perf_counter()
        result = {
            "variant": variant_name,
            "seed": int(seed),
            **tuning,
            **measure(model, variant, data, settings, lambda note, name=name: _say(name, note)),
            "tuning_seconds": tuned - started,
            "evaluation_seconds": time.perf_counter() - tuned,
        }
        path = folder / "results" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        # Whole or absent, so that an interrupted demo can go on.
        write_atomically(path, json.dumps(result))
        _say(name, "done")


def _say(name: str, note: str) -> None:
    print(f"{name}\t{note}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
