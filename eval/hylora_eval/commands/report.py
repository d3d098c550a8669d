# SPDX-License-Identifier: Apache-2.0
"""`hylora eval report`: tables and charts of several results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from hylora_eval.commands.frame import Overwrite
from hylora_eval.report.collect import collect
from hylora_eval.report.write import check_folder, write_report

__all__ = ["report"]


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Result files, or folders that are searched for them.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for report.html, report.md and csv/.")] = Path("report"),
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Evaluation report",
    overwrite: Overwrite = False,
) -> None:
    """Collect results of `hylora eval`, lm-eval and training runs into the tables of the theses.

    Raises:
        FileNotFoundError: if a result does not exist.
        ValueError: if a result is damaged, there is none, or the folder is taken.
    """
    check_folder(output, overwrite)
    collection = collect(runs)
    tables = write_report(output, collection, title, overwrite)
    console = Console(soft_wrap=True, highlight=False)
    for table in tables:
        numbers = sum(cell.measurement is not None for cell in table.cells())
        console.print(f"{escape(table.title)}: {numbers} numbers")
        for text in (*table.warnings, *table.notes):
            console.print(f"  {escape(text)}")
    for path, why in collection.skipped:
        console.print(f"skipped {escape(str(path))}: {escape(why)}")
    console.print(f"{len(collection.sources)} result files -> {escape(str(output / 'report.html'))}")
