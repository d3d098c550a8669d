# SPDX-License-Identifier: Apache-2.0
"""Write a report's folder: pages, and tables in tidy form, one number a line, with the file that it comes from."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hylora.files import write_atomically
from hylora_eval.report.collect import Collection
from hylora_eval.report.markdown import markdown
from hylora_eval.report.page import page
from hylora_eval.report.tables import Table
from hylora_eval.report.thesis_tables import lay_tables

__all__ = ["check_folder", "table_csv", "write_report"]

_PAGES = ("report.md", "report.html")

# Text that spreadsheets take for a formula; a number with a sign is one for them as it is.
_FORMULA = re.compile(r"[=@\t\r]|[+-](?!\d+(\.\d+)?(e[+-]?\d+)?$)")

_HEAD = (
    "section", "training_attention", "evaluation_attention", "run", "base_model", "adapter", "rank", "facts",
    "column_group", "column", "row", "length", "value", "standard_error", "low", "high", "samples", "chance",
    "smallest", "largest", "best", "comparable",
    "remark", "notes", "conditions", "file", "pointer", "sha256",
)  # fmt: skip


def check_folder(folder: str | os.PathLike, overwrite: bool = False) -> Path:
    """Check that a report can be written.

    Args:
        folder: of the report.
        overwrite: whether a report that is there may be replaced.

    Returns:
        The folder.

    Raises:
        ValueError: if it is a file, holds something else, or holds a report that may not be replaced.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {str(folder)!r} must be a folder, and it is a file")
    if folder.is_dir() and any(folder.iterdir()):
        if not all((folder / name).is_file() for name in _PAGES):
            raise ValueError(f"--output {str(folder)!r} is not empty and holds no report; choose another folder")
        if not overwrite:
            raise ValueError(f"--output {str(folder)!r} holds a report; add --overwrite, or choose another folder")
    return folder


def write_report(
    folder: str | os.PathLike,
    collection: Collection,
    title: str = "Evaluation report",
    overwrite: bool = False,
    baseline: str | None = None,
) -> list[Table]:
    """Write `report.md`, `report.html` and `csv/`, one file for each table and one for the sources.

    Args:
        folder: of the report; it is made.
        collection: what was found.
        title: of the report.
        overwrite: whether a report that is there may be replaced.
        baseline: as for `lay_tables`.

    Returns:
        The tables.

    Raises:
        ValueError: as `check_folder` and `lay_tables`.
    """
    folder = check_folder(folder, overwrite)
    tables = lay_tables(collection, baseline)
    (folder / "csv").mkdir(parents=True, exist_ok=True)
    for stale in (folder / "csv").glob("*.csv"):
        stale.unlink()
    for table in tables:
        write_atomically(folder / "csv" / f"{table.slug}.csv", table_csv(table))
    head = ("number", "file", "kind", "model", "created", "versions", "sha256")
    rows = [(s.number, s.path, s.kind, s.model, s.created, s.versions, s.sha256) for s in collection.sources]
    write_atomically(folder / "csv" / "sources.csv", _csv(head, rows))
    write_atomically(folder / "report.md", markdown(title, tables, collection))
    write_atomically(folder / "report.html", page(title, tables, collection, folder))
    return tables


def table_csv(table: Table) -> str:
    """A table as CSV: a line for each number and for each failure, none for what was not measured.

    Numbers are not rounded. Text that begins as a formula does has a quote before it. An average comes from
    several places, which are separated by "; ".
    """
    return _csv(_HEAD, _lines(table))


def _csv(head: Sequence[str], lines: Iterable[Sequence]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_harmless(value) for value in line] for line in lines)
    return text.getvalue()


def _harmless(value: Any) -> Any:
    """A value as it is, with a quote before text that spreadsheets would take for a formula."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def _lines(table: Table) -> Iterator[Sequence]:
    for section in table.sections:
        for row in section.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                measurement = cell.measurement
                if measurement is None:
                    continue
                subject = measurement.subject
                smallest, largest = measurement.spread or (None, None)
                low, high = measurement.interval or (None, None)
                files = dict.fromkeys(place.source for place in measurement.places)
                yield (
                    section.title, subject.trained, subject.evaluated, subject.run, subject.base, subject.variant,
                    subject.rank, _pairs(subject.facts), column.group, column.label, row.label, measurement.length,
                    measurement.value, measurement.error, low, high, measurement.samples, measurement.chance,
                    smallest, largest, int(cell.best), int(cell.comparable),
                    measurement.remark, "; ".join(table.notes[index] for index in cell.notes),
                    _pairs(measurement.conditions), "; ".join(str(source.path) for source in files),
                    "; ".join(place.pointer for place in measurement.places),
                    "; ".join(source.sha256 for source in files),
                )  # fmt: skip


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    return "; ".join(f"{name}={value}" for name, value in pairs)
