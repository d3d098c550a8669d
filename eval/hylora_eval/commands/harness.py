# SPDX-License-Identifier: Apache-2.0
"""`hylora eval harness`: tasks of the LM Evaluation Harness."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hylora_eval.commands.model_options import (
    Attention,
    AttentionOption,
    Device,
    Dtype,
    Model,
    ModelOptions,
    Output,
    Overwrite,
    Revision,
    Rope,
)

__all__ = ["harness"]


def harness(
    model: Model,
    tasks: Annotated[
        str,
        typer.Option(help="lm-eval's tasks with commas between, thesis-short, thesis-long, or hylora-ruler@4096."),
    ],
    limit: Annotated[
        float | None, typer.Option(min=0, help="Samples of each task; below 1, that share of them.")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Examples in the prompt, instead of the task's.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 1,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a request; by default the model's, or what it was trained on.")
    ] = None,
    include_path: Annotated[Path | None, typer.Option(help="Folder with YAML tasks of yours.")] = None,
    attention: Attention = "full",
    attention_option: AttentionOption = None,
    output: Output = None,
    overwrite: Overwrite = False,
    device: Device = None,
    dtype: Dtype = "auto",
    revision: Revision = None,
    rope: Rope = None,
) -> None:
    """Evaluate tasks of the LM Evaluation Harness, print a table and write the result.

    The result is written anew after each task; the same command goes on after an interruption.

    Raises:
        ValueError: on wrong input, before the model is loaded wherever that can be known.
        OSError: if a task's data is not to be had.
        ImportError: if lm-eval, or what a task needs, is not installed.
    """
    # The command line reaches up to the evaluation package, but only when it is asked to evaluate.
    from hylora_eval.harness.evaluation import evaluate
    from hylora_eval.harness.loading import load_tasks
    from hylora_eval.harness.model import context_length, wrap
    from hylora_eval.harness.names import expand_names, split_ruler_name
    from hylora_eval.harness.record import add_result, finished_tasks, resume
    from hylora_eval.results import check_output, save_result
    from hylora_eval.ruler.fingerprints import tokenizer_sha256, weights_sha256

    names = expand_names(tasks.split(","))
    if limit is not None and (limit == 0 or limit > 1 and limit != int(limit)):
        raise ValueError(f"--limit {limit:g} must be a whole number of samples, or a share between 0 and 1")
    lengths = [ruler[1] for ruler in map(split_ruler_name, names) if ruler is not None]
    if max_length is not None and max_length < max(lengths, default=0):
        raise ValueError(f"--max-length {max_length} would cut the prompts of RULER at {max(lengths)}; raise it")
    options = ModelOptions(model, attention, attention_option, dtype, device, revision, rope)
    kept = [] if output is None or overwrite else finished_tasks(output)
    if output is not None:
        check_output(output, overwrite or bool(kept) and not set(names) <= set(kept))
    tokenizer = options.load_tokenizer()
    missing = [name for name in names if name not in kept]
    samples = int(limit) if limit is not None and limit >= 1 else 500
    loaded = load_tasks(missing, tokenizer, include_path, samples)

    console = Console(stderr=True)
    network = options.load_model()
    trained = options.manifest.context_length or 0
    longest = max_length or max(context_length(network), trained, *lengths)
    lm = wrap(network, tokenizer, batch_size, longest, note=lambda text: console.print(f"note: {text}"))
    record = {
        **options.header("harness", network),
        "tokenizer": {
            "path": tokenizer.name_or_path,
            "vocabulary": len(tokenizer),
            "sha256": tokenizer_sha256(tokenizer),
        },
        "settings": {
            "limit": limit,
            "num_fewshot": num_fewshot,
            "batch_size": lm.batch_size,
            "max_length": longest,
            "include_path": None if include_path is None else str(include_path),
            "weights_sha256": weights_sha256(network),
        },
    }
    if kept:
        record = resume(output, record)
    try:
        for name in missing:
            add_result(record, name, evaluate(lm, loaded[name], num_fewshot, limit))
            if output is not None:
                save_result(output, record)
    finally:
        # Also where a task ran out of memory, or the disk is full.
        if "results" in record:
            _print(record)


def _print(record: dict[str, Any]) -> None:
    """A table with a row for each task and metric."""
    table = Table(title=f"lm-eval, {record['attention']['asked']} attention", title_justify="left")
    for heading in ("task", "metric", "examples", "samples", "value"):
        table.add_column(heading, justify="left" if heading in ("task", "metric") else "right")
    for task, values in record["results"].items():
        for key in values:
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            error = values.get(f"{metric}_stderr,{filtered}")
            shots = record["n-shot"].get(task, "")
            samples = record["n-samples"].get(task, {}).get("effective", "")
            table.add_row(task, metric, str(shots), str(samples), _cell(values[key], error))
    Console().print(table)


def _cell(value: Any, error: Any) -> str:
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:.4f}" + (f" ± {error:.4f}" if isinstance(error, int | float) else "")
