# SPDX-License-Identifier: Apache-2.0
"""`hylora eval ruler`: the RULER benchmark by context length."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
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
from hylora_eval.commands.progress import progress_bars

__all__ = ["ruler"]


def ruler(
    model: Model,
    lengths: Annotated[list[int], typer.Option(help="Tokens of a prompt and its answer, one or several.")],
    tasks: Annotated[
        str, typer.Option(help="Tasks or groups such as NIAH-S, with commas between; 'all' for the eleven.")
    ] = "all",
    samples: Annotated[int, typer.Option(min=1, help="Of each task at each length.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 42,
    mode: Annotated[
        str, typer.Option(help="'exact' (fills the length) or 'strict' (the official generator's prompts).")
    ] = "exact",
    haystack: Annotated[
        str | None, typer.Option(help="Text file, folder or PaulGrahamEssays.json; built-in prose by default.")
    ] = None,
    sentences: Annotated[str, typer.Option(help="'punkt', 'rules', or 'auto' for punkt where it is.")] = "auto",
    squad: Annotated[str | None, typer.Option(help="SQuAD's dev-v2.0.json, for qa_1.")] = None,
    hotpotqa: Annotated[str | None, typer.Option(help="hotpot_dev_distractor_v1.json, for qa_2.")] = None,
    more_words: Annotated[str | None, typer.Option(help="A longer list of words, for cwe at great lengths.")] = None,
    attention: Attention = "full",
    attention_option: AttentionOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts answered at once.")] = 1,
    output: Output = None,
    overwrite: Overwrite = False,
    device: Device = None,
    dtype: Dtype = "auto",
    revision: Revision = None,
    rope: Rope = None,
) -> None:
    """Evaluate RULER, print a table and write the result.

    With --output, predictions are kept beside it as they are made; the same command goes on after an interruption.

    Raises:
        ValueError: on wrong input, before the model is loaded wherever that can be known.
    """
    # The command line reaches up to the evaluation package, but only when it is asked to evaluate.
    from hylora_eval import ruler as benchmark
    from hylora_eval.results import check_output, save_result
    from hylora_eval.ruler.fingerprints import tokenizer_sha256
    from hylora_eval.ruler.generate import check_generation
    from hylora_eval.ruler.sentences import sentence_splitter

    lengths = list(dict.fromkeys(lengths))
    names = benchmark.resolve_tasks(name.strip() for name in tasks.split(","))
    options = ModelOptions(model, attention, attention_option, dtype, device, revision, rope)
    kept = None if output is None else output.with_name(output.name + ".predictions.jsonl")
    if output is not None:
        check_output(output, overwrite or kept.exists())
    tokenizer = options.load_tokenizer()
    prose = benchmark.load_haystack(haystack)
    draw: dict[str, Any] = {
        "seed": seed,
        "mode": mode,
        "haystack": prose,
        "sentences": sentences,
        "qa_files": {name: path for name, path in (("qa_1", squad), ("qa_2", hotpotqa)) if path is not None},
        "more_words": more_words,
    }
    for length in lengths:
        for name in names:
            check_generation(name, tokenizer, length, samples, **draw)

    console = Console(stderr=True)
    network = options.load_model()
    record = {
        **options.header("ruler", network),
        "tokenizer": {
            "path": tokenizer.name_or_path,
            "vocabulary": len(tokenizer),
            "sha256": tokenizer_sha256(tokenizer),
        },
        "settings": {
            "lengths": lengths,
            "tasks": names,
            "samples": samples,
            "seed": seed,
            "mode": mode,
            "haystack": prose.name,
            "haystack_sha256": prose.sha256,
            "sentences": sentence_splitter(sentences).name,
            "qa_files": draw["qa_files"],
            "more_words": more_words,
            "batch_size": batch_size,
        },
        "results": [],
        "averages": [],
    }
    if kept is not None and overwrite:
        kept.unlink(missing_ok=True)
    try:
        for length in lengths:
            with progress_bars() as progress:
                (result,) = benchmark.evaluate(
                    network,
                    tokenizer,
                    [length],
                    names,
                    samples,
                    batch_size=batch_size,
                    **draw,
                    predictions=kept,
                    progress=_Bars(progress),
                    note=lambda text: console.print(f"note: {text}"),
                )
            record["results"] += result.task_rows()
            record["averages"] += result.average_rows()
            record["settings"]["batch_size"] = result.batch_size
            if output is not None:
                save_result(output, record)
    finally:
        # Also where a longer length ran out of memory, or the disk is full.
        if record["results"]:
            _print(record)


class _Bars:
    """A progress bar for each task."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[tuple[int, str], Any] = {}

    def __call__(self, length: int, task: str, done: int, total: int) -> None:
        key = (length, task)
        if key not in self._bars:
            self._bars[key] = self._progress.add_task(f"{length} {task}", total=total)
        self._progress.update(self._bars[key], completed=done)


def _print(record: dict[str, Any]) -> None:
    """A table with a row for each task and average, and a column for each length."""
    title = f"RULER, {record['attention']['asked']} attention, {record['settings']['mode']}"
    haystack = next((row["haystack"] for row in record["results"] if row["haystack"]), None)
    table = Table()
    lengths = dict.fromkeys(row["length"] for row in record["results"])
    table.add_column("per cent")
    for length in lengths:
        table.add_column(str(length), justify="right")
    for kind, field in (("results", "task"), ("averages", "group")):
        cells: dict[str, list[str]] = {}
        for row in record[kind]:
            cells.setdefault(row[field], []).append(_cell(row))
        for name, of_lengths in cells.items():
            table.add_row(name, *of_lengths)
        table.add_section()
    empty = [sum(row["empty"] for row in record["results"] if row["length"] == length) for length in lengths]
    if any(empty):
        table.add_row("empty answers", *map(str, empty))
    console = Console()
    console.print(title if haystack is None else f"{title}, haystack {haystack}")
    console.print(table)


def _cell(score: dict[str, Any]) -> str:
    error = score["standard_error"]
    return f"{score['score']:.1f}" + ("" if error is None else f" ± {error:.1f}")
