# SPDX-License-Identifier: Apache-2.0
"""`hylora eval retrieval`: which rules retrieve the right memory blocks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table

from hylora.language.data.recipe import SourceRecipe
from hylora_eval.commands.frame import Evaluation, evaluation_command, number_table, with_interval
from hylora_eval.commands.model_options import ModelOptions
from hylora_eval.results import Result
from hylora_eval.runtime.picture import check_plotting
from hylora_eval.verdicts import counted_samples, hit_interval, in_words, judge

if TYPE_CHECKING:
    from hylora_eval.retrieval import Choices, Sample

__all__ = ["retrieval"]

DOCUMENTS = "documents"
_COLUMNS = ("of attended", "other's", "chance", "of all", "chance", "mass")


@evaluation_command(attention="same")
def retrieval(
    evaluation: Evaluation,
    lengths: Annotated[list[int], typer.Option(help="Tokens of a sample, one or several.")],
    tasks: Annotated[
        str | None, typer.Option(help="Samples with needles: RULER tasks, 'facts' or 'recall', joined by commas.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Documents: text, JSON-lines or Parquet files, a folder, a hub id.")
    ] = None,
    rules: Annotated[
        str | None, typer.Option(help="Rules, joined by commas; by default all that are worth a comparison.")
    ] = None,
    block_sizes: Annotated[list[int], typer.Option(help="Tokens of a block, one or several.")] = (16,),
    read: Annotated[int, typer.Option(min=1, help="Tokens that a selection retrieves.")] = 256,
    chunk_size: Annotated[int, typer.Option(min=1, help="Tokens of a chunk, which are read anyway.")] = 2048,
    samples: Annotated[int, typer.Option(min=1, help="Samples of each task and length.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the tasks' samples.")] = 42,
    haystack: Annotated[
        str | None, typer.Option(help="Prose around the needles: a file or a folder; built-in by default.")
    ] = None,
    text_field: Annotated[str, typer.Option(help="Field of a record that holds the text.")] = "text",
    tokens: Annotated[int, typer.Option(min=0, help="Tokens of a sample over which mass is averaged.")] = 1024,
    by_layer: Annotated[bool, typer.Option("--by-layer", help="Print hit rates and mass by layer as well.")] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Where to write the choices of those tokens, lines of JSON.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw hit rates, e.g. retrieval.png.")] = None,
) -> None:
    """Compare rules on the queries and keys of a model, print tables and write the result.

    Raises:
        ValueError: on wrong input, before the model is loaded wherever that can be known.
    """
    # Here, so that options are listed and refused without the seconds that these take to import.
    from hylora_eval.documents import tokens_sha256
    from hylora_eval.retrieval import DEFAULT_RULES, compare_rules, parse_rules
    from hylora_eval.retrieval.comparison import check_samples
    from hylora_eval.retrieval.picture import draw
    from hylora_eval.retrieval.rules import OWN

    options = evaluation.options
    own = options.attention_name.startswith("se_attn")
    names = [name.strip() for name in rules.split(",")] if rules else [*DEFAULT_RULES, *([OWN] if own else [])]
    if OWN in names and not own:
        raise ValueError(f"--rules {OWN}: --attention {options.attention!r} is {options.attention_name!r}, no SE-Attn")
    chosen = parse_rules(names, block_sizes, read, chunk_size)
    evaluation.check_outputs(trace, plot)
    if plot is not None:
        check_plotting(plot)
    settings = {"samples": samples, "seed": seed, "haystack": haystack}
    drawn, source = _samples(options, list(dict.fromkeys(lengths)), tasks, data, text_field, settings)
    for *_, of_task in drawn:
        check_samples(of_task, [rule.options for rule in chosen if rule.options is not None])
    model = options.load_model()
    every = [sample.input_ids for *_, of_task in drawn for sample in of_task]
    settings |= {"rules": names, "block_sizes": list(block_sizes), "read": read, "chunk_size": chunk_size}
    result = evaluation.start(
        "retrieval",
        model,
        data={**source, "tokens_sha256": tokens_sha256(every)},
        settings={**settings, "tokens": tokens},
        results=[],
    )
    with evaluation.progress() as bar, evaluation.shown(lambda found: _tables(found, by_layer)), ExitStack() as stack:
        lines = None if trace is None else stack.enter_context(open(trace, "w", encoding="utf-8"))
        for task, length, of_task in drawn:
            about = {"task": task, "length": length}

            def observe(choices: Choices, about: dict[str, Any] = about) -> None:
                lines.writelines(json.dumps({**about, **row}) + "\n" for row in choices.rows())

            move = bar(f"{length} {task}", len(of_task))
            found = compare_rules(
                model, of_task, chosen, tokens, observe=None if lines is None else observe, progress=move
            )
            result["results"].append({**about, **found.to_dict()})
            evaluation.save()
        if plot is not None:
            draw(result["results"], plot, f"{Path(options.model).name}: {read} tokens read, chunks of {chunk_size}")


def _samples(
    options: ModelOptions,
    lengths: list[int],
    tasks: str | None,
    data: str | None,
    text_field: str,
    settings: dict[str, Any],
) -> tuple[list[tuple[str, int, list[Sample]]], dict[str, Any]]:
    """Sequences to read, by task and length, and what the result says of them."""
    from hylora_eval.documents import load_documents
    from hylora_eval.retrieval import Sample
    from hylora_eval.retrieval.samples import NEEDLE_TASKS, needle_samples

    names = [] if tasks is None else [name.strip() for name in tasks.split(",")]
    if not names and data is None:
        raise ValueError("name --tasks with needles, such as niah_single_2, or documents with --data, or both")
    for name in names:
        if name not in NEEDLE_TASKS:
            # Before a tokenizer is looked for.
            raise ValueError(f"--tasks {name!r} must be one of {', '.join(NEEDLE_TASKS)}")
    tokenizer = options.load_tokenizer()
    drawn = [
        (name, length, needle_samples(name, tokenizer, length, **settings)) for name in names for length in lengths
    ]
    if data is None:
        return drawn, {"tasks": names}
    source = SourceRecipe(data, text_field=text_field, max_documents=settings["samples"])
    documents = load_documents(source, tokenizer, max(lengths), max(lengths)).tokens
    drawn += [(DOCUMENTS, length, [Sample(document[:length]) for document in documents]) for length in lengths]
    return drawn, {"tasks": names, **vars(source), "documents": len(documents)}


def _tables(result: Result, by_layer: bool) -> Iterator[Table | str]:
    """Hit rates and shares of full attention, in per cent, a row for each rule, and what they come to."""
    for found in result["results"]:
        first = found["rules"][0]
        title = f"{found['task']}, {found['length']} tokens, {found['samples']} samples, per cent"
        if first["hit_rate"] is not None:
            title += f"; {first['queries']} needles before the chunk that asks ({first['queries_in_chunk']} within it)"
        # The size of blocks goes with the rule: a narrow terminal should show all columns.
        table = number_table(title, ("rule, block", *_COLUMNS), words=1, box=SIMPLE, padding=0, show_edge=False)
        for rule in found["rules"]:
            attended = rule["attended"] or dict.fromkeys(("hit_rate", "other_query", "chance"))
            table.add_row(
                _label(rule),
                _percent(attended["hit_rate"], hit_interval(attended, found["samples"])),
                *(_percent(attended[name]) for name in ("other_query", "chance")),
                _percent(rule["hit_rate"], hit_interval(rule, found["samples"])),
                *(_percent(rule[name]) for name in ("chance", "mass")),
            )
        yield table
        yield from _verdict(found)
        for size, attended in {
            rule["options"]["block_size"]: rule["attended"] for rule in found["rules"] if rule["attended"]
        }.items():
            stand_out, pairs = _percent(attended["outliers"]), attended["pairs"]
            yield (
                f"Of {pairs} needles that a KV head attends to, {stand_out} have a key among the 3 farthest from the "
                f"mean of their {size} (chance {_percent(min(1, 3 / size))})"
            )
        if by_layer:
            yield from _by_layer(found)


def _verdict(found: dict[str, Any]) -> Iterator[str]:
    """What the hit rates are beside chance: of needles that full attention finds, where it finds any."""
    rules = [(_label(rule), rule["attended"] or rule) for rule in found["rules"] if rule["hit_rate"] is not None]
    if rules:
        read = found["samples"]
        judged = ((name, judge(hit_interval(hits, read), hits["chance"])) for name, hits in rules)
        yield in_words(judged, min(counted_samples(hits, read) for _, hits in rules))


def _by_layer(found: dict[str, Any]) -> Iterator[Table]:
    for what, title in (("hit_rate", "Needles found by layer"), ("mass", "Mass by layer")):
        rules = [rule for rule in found["rules"] if rule[what] is not None]
        if rules:
            layers = (str(row["layer"]) for row in rules[0]["layers"])
            table = number_table(title, ("rule, block", *layers), words=1, box=SIMPLE)
            for rule in rules:
                table.add_row(_label(rule), *(_percent(row[what]) for row in rule["layers"]))
            yield table


def _label(rule: dict[str, Any]) -> str:
    return f"{rule['rule']} {rule['options']['block_size']}"


def _percent(share: float | None, interval: Sequence[float] | None = None) -> str:
    interval = None if interval is None else [100 * bound for bound in interval]
    return "-" if share is None else with_interval(100 * share, interval, 1)
