# SPDX-License-Identifier: Apache-2.0
"""`hylora eval retrieval`: which blocks SE-Attn retrieves, and whether they are the right ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hylora.language.data.recipe import SourceRecipe
from hylora_eval.commands.frame import Evaluation, evaluation_command, number_table, with_error
from hylora_eval.commands.model_options import ModelOptions
from hylora_eval.documents import load_documents, tokens_sha256
from hylora_eval.results import Result
from hylora_eval.retrieval import RetrievalTrace, Sample, inspect_retrieval
from hylora_eval.retrieval.needles import NeededBlocks
from hylora_eval.retrieval.picture import draw
from hylora_eval.retrieval.samples import NEEDLE_TASKS, needle_samples
from hylora_eval.runtime.picture import check_plotting

__all__ = ["retrieval"]


@evaluation_command(attention="same")
def retrieval(
    evaluation: Evaluation,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a sample.")],
    task: Annotated[
        str | None, typer.Option(help="Samples with needles: a RULER task such as niah_single_1, or 'recall'.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Or documents: text, JSON-lines or Parquet files, a folder, a hub id.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples to read.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the task's samples.")] = 42,
    haystack: Annotated[
        str | None, typer.Option(help="Prose around the needles: a file or a folder; built-in by default.")
    ] = None,
    text_field: Annotated[str, typer.Option(help="Field of a record that holds the text.")] = "text",
    trace: Annotated[
        Path | None, typer.Option(help="Where to write every choice, a line of JSON each, e.g. trace.jsonl.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Where to draw the choices in the first sample, e.g. retrieval.png.")
    ] = None,
) -> None:
    """Trace which blocks are retrieved, print tables and write the result.

    Raises:
        ValueError: on wrong input, before the model is loaded wherever that can be known.
    """
    if (task is None) == (data is None):
        raise ValueError("name either a --task with needles, such as niah_single_1, or documents with --data")
    options = evaluation.options
    if options.attention_name != "se_attn":
        trained = " (as trained)" if options.attention == "same" else ""
        raise ValueError(
            f"--attention {options.attention!r} is {options.attention_name!r}{trained}, which retrieves nothing; add "
            "--attention se_attn, with options such as --attention-option top_k=8"
        )
    evaluation.check_outputs(trace, plot)
    if plot is not None:
        check_plotting(plot)
    settings = {"task": task, "length": length, "samples": samples, "seed": seed, "haystack": haystack}
    drawn, source = _samples(options, settings, data, text_field)
    model = options.load_model()

    with evaluation.progress() as bar, ExitStack() as stack:
        lines = None if trace is None else stack.enter_context(open(trace, "w", encoding="utf-8"))
        move = bar(task or "documents", len(drawn))

        def observe(index: int, found: RetrievalTrace) -> None:
            if lines is not None:
                lines.writelines(json.dumps({"sample": index, **row}) + "\n" for row in found.rows())
            if plot is not None and index == 0:
                needles = drawn[0].needles
                needed = None if needles is None else NeededBlocks.of(needles, found.options)
                title = f"{task or Path(data).name}, sample 1 of {len(drawn)}: {found.length} tokens"
                draw(found, needed, plot, title)
            move(index + 1)

        inspection = inspect_retrieval(model, drawn, observe)
    result = evaluation.start(
        "retrieval",
        model,
        data={**source, "tokens_sha256": tokens_sha256([sample.input_ids for sample in drawn])},
        settings=settings,
        **inspection.to_dict(),
    )
    evaluation.save()
    for table in _tables(result):
        Console().print(table)


def _samples(
    options: ModelOptions, settings: dict[str, Any], data: str | None, text_field: str
) -> tuple[list[Sample], dict[str, Any]]:
    """Sequences to read, and what the result says of them."""
    if data is None:
        if settings["task"] not in NEEDLE_TASKS:
            # Before a tokenizer is looked for.
            raise ValueError(f"--task {settings['task']!r} must be one of {', '.join(NEEDLE_TASKS)}")
        return needle_samples(tokenizer=options.load_tokenizer(), **settings), {"task": settings["task"]}
    length = settings["length"]
    source = SourceRecipe(data, text_field=text_field, max_documents=settings["samples"])
    documents = load_documents(source, options.load_tokenizer(), length, length)
    return [Sample(tokens) for tokens in documents.tokens], {**vars(source), "documents": len(documents.tokens)}


def _tables(result: Result) -> Iterator[Table]:
    """Hit rates and shares of full attention, in per cent, a row for each layer."""
    needles = result["needles"]
    if needles is not None:
        title = (
            f"Needles retrieved, per cent: {needles['queries']} before the chunk that asks "
            f"({needles['queries_in_chunk']} within it left out)"
        )
        headings = ("layer", "any block", "chance", "oracle", "all blocks", "chance", "by KV head (any)")
        table = number_table(title, headings)
        for row in [*needles["layers"], {**needles, "layer": "all", "heads": []}]:
            table.add_row(
                str(row["layer"]),
                _percent(row["hit_rate"], row["standard_error"]),
                _percent(needles["chance"]),
                _percent(row["oracle"]),
                _percent(row["hit_rate_of_all"]),
                _percent(needles["chance_of_all"]),
                " ".join(map(_percent, row["heads"])),
            )
        yield table
    if result["mass"]:
        title = "Share of full attention's weight, per cent, where there is a choice"
        headings = ("retrieved", "oracle", "random", "all candidates", "own chunk", "overlap")
        table = number_table(title, ("layer", *headings))
        for row in result["mass"]:
            first = _percent(row["mean"]["retrieved"], row["standard_error"])
            others = ("oracle", "random", "candidates", "own_chunk", "overlap")
            table.add_row(str(row["layer"]), first, *(_percent(row["mean"][name]) for name in others))
        yield table


def _percent(share: float, error: float | None = None) -> str:
    return with_error(100 * share, None if error is None else 100 * error, 1)
