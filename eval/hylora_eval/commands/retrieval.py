# SPDX-License-Identifier: Apache-2.0
"""`hylora eval retrieval`: which blocks SE-Attn retrieves, and whether they are the right ones."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hylora.attention import resolve_name
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
from hylora_eval.commands.progress import progress_bars, reporter

__all__ = ["retrieval"]


def retrieval(
    model: Model,
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
    attention: Attention = "same",
    attention_option: AttentionOption = None,
    output: Output = None,
    trace: Annotated[
        Path | None, typer.Option(help="Where to write every choice, a line of JSON each, e.g. trace.jsonl.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Where to draw the choices in the first sample, e.g. retrieval.png.")
    ] = None,
    overwrite: Overwrite = False,
    device: Device = None,
    dtype: Dtype = "auto",
    revision: Revision = None,
    rope: Rope = None,
) -> None:
    """Trace which blocks are retrieved, print tables and write the result.

    Raises:
        ValueError: on wrong input, before the model is loaded wherever that can be known.
    """
    # The command line reaches up to the evaluation package, but only when it is asked to evaluate.
    from hylora_eval.documents import fingerprint
    from hylora_eval.results import check_output, save_result
    from hylora_eval.retrieval import RetrievalTrace, inspect_retrieval
    from hylora_eval.retrieval.needles import NeededBlocks
    from hylora_eval.retrieval.picture import draw
    from hylora_eval.runtime.picture import check_plotting

    if (task is None) == (data is None):
        raise ValueError("name either a --task with needles, such as niah_single_1, or documents with --data")
    options = ModelOptions(model, attention, attention_option, dtype, device, revision, rope)
    name = options.manifest.attention if attention == "same" else resolve_name(attention)
    if name != "se_attn":
        trained = " (as trained)" if attention == "same" else ""
        raise ValueError(
            f"--attention {attention!r} is {name!r}{trained}, which retrieves nothing; add --attention se_attn, with "
            "options such as --attention-option top_k=8"
        )
    for path in (output, trace, plot):
        if path is not None:
            check_output(path, overwrite)
    if plot is not None:
        check_plotting(plot)
    settings = {"task": task, "length": length, "samples": samples, "seed": seed, "haystack": haystack}
    drawn, source = _samples(options, settings, data, text_field)
    network = options.load_model()

    with progress_bars() as progress, ExitStack() as stack:
        lines = None if trace is None else stack.enter_context(open(trace, "w", encoding="utf-8"))
        report = reporter(progress, task or "documents", len(drawn))

        def observe(index: int, found: RetrievalTrace) -> None:
            if lines is not None:
                lines.writelines(json.dumps({"sample": index, **row}) + "\n" for row in found.rows())
            if plot is not None and index == 0:
                needles = drawn[0].needles
                needed = None if needles is None else NeededBlocks.of(needles, found.options)
                draw(
                    found, needed, plot, f"{task or Path(data).name}, sample 1 of {len(drawn)}: {found.length} tokens"
                )
            report(index + 1)

        inspection = inspect_retrieval(network, drawn, observe)
    record = {
        **options.header("retrieval", network),
        "data": {**source, "tokens_sha256": fingerprint([sample.input_ids for sample in drawn])},
        "settings": settings,
        **inspection.to_dict(),
    }
    if output is not None:
        save_result(output, record)
    for table in (_needle_table(record), _mass_table(record)):
        if table is not None:
            Console().print(table)


def _samples(
    options: ModelOptions, settings: dict[str, Any], data: str | None, text_field: str
) -> tuple[list[Any], dict[str, Any]]:
    """Sequences to read, and what the result says of them."""
    from hylora.language.data.recipe import SourceRecipe
    from hylora_eval.documents import load_documents
    from hylora_eval.retrieval import Sample
    from hylora_eval.retrieval.samples import NEEDLE_TASKS, needle_samples

    if data is None:
        if settings["task"] not in NEEDLE_TASKS:
            # Before a tokenizer is looked for.
            raise ValueError(f"--task {settings['task']!r} is not one of {', '.join(NEEDLE_TASKS)}")
        return needle_samples(tokenizer=options.load_tokenizer(), **settings), {"task": settings["task"]}
    length = settings["length"]
    source = SourceRecipe(data, text_field=text_field, max_documents=settings["samples"])
    documents = load_documents(source, options.load_tokenizer(), length, length)
    return [Sample(tokens) for tokens in documents.tokens], {**vars(source), "documents": len(documents.tokens)}


def _needle_table(record: dict[str, Any]) -> Table | None:
    """Hit rates in per cent, a row for each layer."""
    needles = record["needles"]
    if needles is None:
        return None
    title = (
        f"Needles retrieved, per cent: {needles['queries']} before the chunk that asks "
        f"({needles['queries_in_chunk']} within it left out)"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("layer", "any block", "chance", "oracle", "all blocks", "chance", "by KV head (any)"):
        table.add_column(heading, justify="right")
    for row in [*needles["layers"], {**needles, "layer": "all", "heads": []}]:
        error = row["standard_error"]
        table.add_row(
            str(row["layer"]),
            _percent(row["hit_rate"]) + ("" if error is None else f" ± {_percent(error)}"),
            _percent(needles["chance"]),
            _percent(row["oracle"]),
            _percent(row["hit_rate_of_all"]),
            _percent(needles["chance_of_all"]),
            " ".join(map(_percent, row["heads"])),
        )
    return table


def _mass_table(record: dict[str, Any]) -> Table | None:
    """Shares of full attention in per cent, a row for each layer."""
    if not record["mass"]:
        return None
    table = Table(title="Share of full attention's weight, per cent, where there is a choice", title_justify="left")
    headings = ("retrieved", "oracle", "random", "all candidates", "own chunk", "overlap")
    for heading in ("layer", *headings):
        table.add_column(heading, justify="right")
    for row in record["mass"]:
        shares = row["mean"]
        error = row["standard_error"]
        first = _percent(shares["retrieved"]) + ("" if error is None else f" ± {_percent(error)}")
        others = (_percent(shares[name]) for name in ("oracle", "random", "candidates", "own_chunk", "overlap"))
        table.add_row(str(row["layer"]), first, *others)
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
