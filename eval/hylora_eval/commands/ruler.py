# SPDX-License-Identifier: Apache-2.0
"""`hylora eval ruler`: the RULER benchmark by context length."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from hylora_eval.commands.frame import Evaluation, attention_of, evaluation_command, number_table, with_interval
from hylora_eval.commands.ruler_options import Drawing, with_drawing
from hylora_eval.estimates import percent_interval, resolution
from hylora_eval.results import Result

__all__ = ["ruler", "ruler_tables"]


@evaluation_command(together=True)
@with_drawing
def ruler(
    evaluation: Evaluation,
    drawing: Drawing,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts answered at once.")] = 1,
) -> None:
    """Evaluate RULER, print a table and write the result.

    With --output, predictions are kept beside it as they are made; the same command goes on after an interruption.

    Raises:
        ValueError: on wrong input, before the model is loaded wherever that can be known.
    """
    # Here, so that options are listed and refused without the seconds that these take to import.
    from hylora_eval import ruler as benchmark
    from hylora_eval.fingerprints import describe_tokenizer

    output = evaluation.output
    kept = None if output is None else output.with_name(output.name + ".predictions.jsonl")
    evaluation.check_outputs(goes_on=kept is not None and kept.exists())
    tokenizer = evaluation.options.load_tokenizer()
    # Each once, though lengths are evaluated one by one.
    note = cache(evaluation.note)
    drawing.check(tokenizer, note)

    model = evaluation.options.load_model()
    result = evaluation.start(
        "ruler",
        model,
        tokenizer=describe_tokenizer(tokenizer),
        settings={**drawing.settings(tokenizer), "batch_size": batch_size},
        results=[],
        averages=[],
    )
    if kept is not None and evaluation.overwrite and evaluation.processes.is_main:
        kept.unlink(missing_ok=True)
    with evaluation.shown(ruler_tables):
        for length in drawing.lengths:
            with evaluation.progress() as bar:
                (found,) = benchmark.evaluate(
                    model,
                    tokenizer,
                    [length],
                    drawing.names,
                    drawing.samples,
                    batch_size=batch_size,
                    **drawing.options,
                    predictions=kept,
                    progress=lambda length, task, done, total, bar=bar: bar(f"{length} {task}")(done, total),
                    note=note,
                    processes=evaluation.processes,
                )
            result["results"] += found.task_rows()
            result["averages"] += found.average_rows()
            result["settings"]["batch_size"] = found.batch_size
            evaluation.save()


def ruler_tables(result: Result) -> Iterator[RenderableType]:
    """A title, a table with a row for each task and average and a column for each length, and what it can tell."""
    rows = result["results"]
    title = f"RULER, {attention_of(result)} attention, {result['settings']['mode']}"
    haystack = next((row["haystack"] for row in rows if row["haystack"]), None)
    yield title if haystack is None else f"{title}, haystack {haystack}"
    lengths = list(dict.fromkeys(row["length"] for row in rows))
    table = number_table(None, ("per cent", *map(str, lengths)), words=1)
    for scores, field in ((rows, "task"), (result["averages"], "group")):
        for name in dict.fromkeys(row[field] for row in scores):
            of_name = (row for row in scores if row[field] == name)
            table.add_row(name, *(_score(row) for row in of_name))
        table.add_section()
    empty = [sum(row["empty"] for row in rows if row["length"] == length) for length in lengths]
    if any(empty):
        table.add_row("empty answers", *map(str, empty))
    yield table
    yield f"In brackets: 95 % intervals (Wilson). {resolution(min(row['samples'] for row in rows))}"


def _score(row: dict[str, Any]) -> str:
    return with_interval(row["score"], percent_interval(row["score"], row["samples"]), 1)
