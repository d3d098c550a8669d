# SPDX-License-Identifier: Apache-2.0
"""`hylora eval report`: tables and charts of several results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from hylora_eval.commands.frame import Overwrite
from hylora_eval.report.collect import collect
from hylora_eval.report.tables import Table
from hylora_eval.report.write import check_folder, write_report
from hylora_eval.wording import number_of

__all__ = ["report"]


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Result files, or folders that are searched for them.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for report.html, report.md and csv/.")] = Path("report"),
    baseline: Annotated[
        str | None, typer.Option(metavar="RUN", help="Run of perplexity or RULER that others' differences are to.")
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Evaluation report",
    overwrite: Overwrite = False,
) -> None:
    """Collect results of `hylora eval`, lm-eval and training runs into the tables of the theses.

    Raises:
        FileNotFoundError: if a result does not exist.
        ValueError: if there is no result, or none that can be read, or no such baseline, or the
            folder is taken.
    """
    check_folder(output, overwrite)
    collection = collect(runs)
    tables = write_report(output, collection, title, overwrite, baseline)
    console = Console(soft_wrap=True, highlight=False)
    for table in tables:
        numbers = sum(cell.measurement is not None for cell in table.cells())
        console.print(f"{escape(table.title)}: {number_of(numbers, 'number')}")
        for text in (*table.warnings, *_notes(table)):
            console.print(f"  {escape(text)}")
    for word, files in (("damaged", collection.damaged), ("skipped", collection.skipped)):
        for path, why in files:
            console.print(f"{word} {escape(str(path))}: {escape(why)}")
    console.print(f"{number_of(len(collection.sources), 'result file')} -> {escape(str(output / 'report.html'))}")


def _notes(table: Table) -> Iterator[str]:
    """The footnotes of a table, each with the rows that it is on, and their columns where it is not on all."""
    for index, note in enumerate(table.notes):
        places = []
        for section in table.sections:
            for row in section.rows:
                measured = [pair for pair in zip(table.columns, row.cells, strict=True) if pair[1].measurement]
                on = [column.label for column, cell in measured if index in cell.notes]
                if on:
                    title = f"{section.title}: " if len(table.sections) > 1 else ""
                    columns = "" if len(on) == len(measured) else f" ({'; '.join(on)})"
                    places.append(f"{title}{row.label}{columns}")
        yield f"{note}: {'; '.join(dict.fromkeys(places))}"
