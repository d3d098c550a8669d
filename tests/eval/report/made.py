# SPDX-License-Identifier: Apache-2.0
"""Result files as the commands write them, with invented numbers."""

from __future__ import annotations

import json
from pathlib import Path

from hylora_eval.ruler.tasks import ALL_TASKS

ENVIRONMENT = {"hylora": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "device": "cpu"}
TASKS = {
    "arc_easy": "acc", "arc_challenge": "acc_norm", "hellaswag": "acc_norm", "lambada_openai": "acc", "piqa": "acc",
    "winogrande": "acc", "swde": "contains", "scrolls_qasper": "f1", "scrolls_narrativeqa": "f1",
}  # fmt: skip
SHORT, LONG = list(TASKS)[:6], list(TASKS)[6:]


def header(kind, run="out/se", trained="se_attn", evaluated="sdpa", adapter=None, created="2026-01-02T10:00:00+00:00"):
    """A header; `trained=None` stands for a model that was not fine-tuned."""
    tuned = trained is not None
    model = {
        "path": run,
        "base_model": "base/model" if tuned else None,
        "revision": None,
        "training_attention": trained or "sdpa",
        "training_attention_options": {"top_k": 8, "block_size": 32} if trained == "se_attn" else {},
        "training_context_length": 8192 if tuned else None,
        "rope_parameters": None,
        "dtype": "bfloat16",
        "device": "cpu",
    }
    if adapter is not None:
        model["adapter"] = dict(zip(("variant", "r", "lora_alpha"), adapter, strict=True))
    attention = {"asked": "full", "name": evaluated, "options": {}}
    return {"kind": kind, "created": created, "model": model, "attention": attention, "environment": ENVIRONMENT}


def perplexity(values, tokens="a" * 64, mode="chunks", stride=None, errors=None, **options):
    """Perplexity by length."""
    errors = errors or {}
    return {
        **header("perplexity", **options),
        "data": {"path": "books.jsonl", "tokens_sha256": tokens},
        "settings": {"lengths": list(values), "mode": mode, "stride": stride, "batch_size": 1},
        "results": [
            {"length": length, "perplexity": value, "perplexity_standard_error": errors.get(length)}
            for length, value in values.items()
        ],
    }


def harness(values, errors=None, shots=None, bare=False, samples=None, **options):
    """lm-eval's results by task: under our header, or as lm-eval writes them."""
    errors, shots, samples = errors or {}, shots or {}, samples or {}
    results = {}
    for task, value in values.items():
        metric = TASKS.get(task, "acc")
        results[task] = {"alias": task, f"{metric},none": value, f"{metric}_stderr,none": errors.get(task, "N/A")}
    record = {
        "results": results,
        "configs": {task: {} for task in values},
        "config": {"model": "hf", "model_args": {"pretrained": "some/model"}},
        "versions": dict.fromkeys(values, 1),
        "n-shot": {task: shots.get(task, 0) for task in values},
        "n-samples": {task: {"original": 100, "effective": samples.get(task, 100)} for task in values},
        "higher_is_better": {task: {TASKS.get(task, "acc"): True} for task in values},
    }
    if bare:
        return {**record, "date": 1767348000.0, "transformers_version": "5.23.0"}
    return {**header("harness", **options), **record}


def ruler(
    score,
    lengths=(4096, 8192),
    tasks=ALL_TASKS,
    mode="exact",
    seed=42,
    samples=100,
    error=None,
    prompts=None,
    **options,
):
    """RULER by task and length; `score` is called with both."""
    return {
        **header("ruler", **options),
        "tokenizer": {"fingerprint": "d" * 32},
        "settings": {
            "mode": mode,
            "seed": seed,
            "samples": samples,
            "haystack": "builtin",
            "haystack_sha256": "e" * 64,
        },
        "results": [
            {
                "task": task,
                "length": length,
                "score": score(task, length),
                "standard_error": error,
                "samples": samples,
                "empty": 0,
                "prompts_sha256": (prompts or {}).get(task, "f" * 64),
            }
            for length in lengths
            for task in tasks
        ],
    }


def retrieval(rates, samples=20, attended=None, error=0.01, run="out/se", tokens="a" * 64):
    """What rules retrieve: hit rates by rule, of which `attended` of the needles that full attention finds."""
    rules = [
        {
            "rule": rule,
            "options": {"block_size": 16},
            "hit_rate": rate,
            "standard_error": error,
            "chance": 0.1,
            "queries": 10 * samples,
            "attended": attended
            and {
                "pairs": 40,
                "hit_rate": attended[rule],
                "standard_error": error,
                "chance": 0.2,
                "other_query": 0.05,
            },
            "mass": 0.3,
            "mass_of_random": 0.02,
        }
        for rule, rate in rates.items()
    ]
    return {
        **header("retrieval", run=run),
        "data": {"tokens_sha256": tokens},
        "settings": {"read": 256, "chunk_size": 2048},
        "results": [{"task": "facts", "length": 512, "samples": samples, "rules": rules}],
    }


def runtime(times, failed=(), run="out/se"):
    """Times in seconds by (work, contender, length)."""
    results = []
    for (work, contender, length), seconds in times.items():
        broken = (work, contender, length) in failed
        spread = {"median": seconds, "smallest": 0.9 * seconds, "largest": 1.2 * seconds}
        results.append(
            {
                "work": work,
                "contender": contender,
                "length": length,
                "seconds": [] if broken else [seconds],
                "time": None if broken else spread,
                "speedup": None,
                "peak_bytes": None if broken else 2**20 * length,
                "error": "out of memory" if broken else None,
            }
        )
    return {
        **header("runtime", run=run, trained=None),
        "attention": None,
        "settings": {"part": "attention", "attention_options": {"top_k": 8}, "batch_size": 1},
        "results": results,
    }


def training(
    run="out/ssc",
    seed=0,
    sampler="ssc_fbs",
    model="resnet8",
    images="digits",
    sides=None,
    created="2026-01-02T10:00:00+00:00",
    recipe=None,
    evaluation=None,
    **numbers,
):
    """What a training run came to; `recipe` has more of its settings by `section.key`."""
    tree = {
        "task": "images",
        "images": {"name": images, "held_out": 0.2, "path": None},
        "model": {"name": model, "dropout": 0.0},
        "sampler": {"name": sampler},
        "training": {"seed": seed, "epochs": 2, "workers": 0},
        "output": {"path": run},
    }
    for key, value in (recipe or {}).items():
        section, name = key.split(".")
        tree[section][name] = value
    return {
        "kind": "training",
        "created": created,
        "recipe": tree,
        "updates": 100,
        "seconds": 50.0,
        "peak_bytes": 2**30,
        "evaluation": {"loss": 0.5, "accuracy": 0.8, "ece": 0.03} if evaluation is None else evaluation,
        **({"accuracy_by_side": sides} if sides else {}),
        **numbers,
        "environment": {**ENVIRONMENT, "processor": "one"},
    }


def images(name, accuracy, fingerprint="f" * 64, **options):
    """What was measured of a training run's network on other images; the run is made of the options."""
    trained = training(**options)
    return {
        "kind": "images",
        "created": trained["created"],
        "run": "out/ssc",
        "recipe": trained["recipe"],
        "data": {"name": name, "part": "held_out", "images": 10, "fingerprint": fingerprint, "classes": None},
        "shape": [8, 8],
        "evaluation": {"loss": 1.0, "accuracy": accuracy, "ece": 0.05},
        "environment": ENVIRONMENT,
    }


def write(folder: Path, name: str, record) -> Path:
    """Write a result file and return its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2))
    return path
