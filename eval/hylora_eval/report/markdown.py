# SPDX-License-Identifier: Apache-2.0
"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hylora_eval.report.collect import Collection
from hylora_eval.report.measurements import Source
from hylora_eval.report.tables import Cell, Row, Table, note_letter

__all__ = ["markdown"]


def markdown(title: str, tables: Sequence[Table], collection: Collection) -> str:
    """The whole report.

    Args:
        title: of it.
        tables: finished.
        collection: what they are from.
    """
    parts = [
        f"# {_escape(title)}",
        "Best values, and all that are not clearly worse, are **bold**; standard errors follow ±, 95 % "
        "intervals are in brackets. Numbers in brackets are the files below that a row is "
        "from; `csv/` has the file and the place in it for every number.",
        *(f"> **Damaged, and not in this report: {_escape(f'{path}: {why}')}**" for path, why in collection.damaged),
        *(_table(table) for table in tables),
        "## Sources",
        _grid(
            ["", "file", "kind", "model", "created", "versions", "sha256"],
            [
                (f"[{s.number}]", f"`{s.path}`", s.kind, f"`{s.model}`", s.created, s.versions, f"`{s.sha256}`")
                for s in collection.sources
            ],
        ),
    ]
    if collection.superseded:
        lines = [f"- {older.places[0]}, by {newer.places[0]}" for older, newer in collection.superseded]
        parts += ["## Superseded by newer measurements", "\n".join(lines)]
    if collection.skipped:
        parts += ["## Skipped", "\n".join(f"- `{path}`: {why}" for path, why in collection.skipped)]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    titled = any(section.title for section in table.sections)
    labels = [column.label for column in table.columns]
    grouped = [
        f"{column.label}, {column.group}" if column.subject or labels.count(column.label) > 1 else column.label
        for column in table.columns
    ]
    is_plain = not any(row.detail for section in table.sections for row in section.rows)
    head = [*([""] if titled else []), table.stub, *([] if is_plain else [table.details]), *grouped, "files"]
    rows = []
    for section in table.sections:
        for row in section.rows:
            stub = [row.label] if is_plain else [row.label, row.detail]
            labels = [*([section.title] if titled else []), *stub]
            rows.append((*map(_escape, labels), *map(_cell, row.cells), _sources(row)))
    notes = [f"{_mark(index)} {_escape(note)}" for index, note in enumerate(table.notes)]
    return "\n\n".join(
        [
            f"## {_escape(table.title)}",
            _escape(f"{table.caption} {table.conditions}".strip()),
            *(f"> **{_escape(warning)}**" for warning in table.warnings),
            _grid(head, rows, numbers_from=len(head) - 1 - len(table.columns)),
            *map(_escape, table.verdicts),
            *notes,
        ]
    )


def _cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return " ".join(part for part in (text, cell.error_text, *map(_mark, cell.notes)) if part)


def _mark(index: int) -> str:
    return f"<sup>{note_letter(index)}</sup>"


def _sources(row: Row) -> str:
    found: dict[Source, None] = {}
    for cell in row.cells:
        if cell.measurement is not None:
            found |= dict.fromkeys(place.source for place in cell.measurement.places)
    return " ".join(f"[{source.number}]" for source in sorted(found, key=lambda source: source.number))


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int | None = None) -> str:
    """A pipe table; columns from `numbers_from` on, except the last, are aligned to the right."""
    numbers = range(len(head) if numbers_from is None else numbers_from, len(head) - 1)
    rule = ["---:" if index in numbers else "---" for index in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_").replace("<", "&lt;")
