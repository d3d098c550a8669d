# SPDX-License-Identifier: Apache-2.0
"""A report as one HTML page that needs nothing else: tables, charts drawn by a script within it, and sources."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from string import Template

from hylora_eval.report.charts import chart, series_styles
from hylora_eval.report.collect import Collection
from hylora_eval.report.measurements import Source, Subject
from hylora_eval.report.tables import Cell, Column, Row, Section, Table, note_letter
from hylora_eval.wording import number_of

__all__ = ["page"]


def page(title: str, tables: Sequence[Table], collection: Collection, folder: Path) -> str:
    """The whole report.

    Args:
        title: of it.
        tables: finished.
        collection: what they are from.
        folder: the page will be in; links to result files are relative to it.
    """
    styles = series_styles(list(tables))
    charts = [drawn for table in tables if (drawn := chart(table, styles)) is not None]
    charted = {drawn["slug"] for drawn in charts}
    numbers = sum(cell.measurement is not None for table in tables for cell in table.cells())
    return Template(_asset("page.html")).substitute(
        title=escape(title),
        summary=f"{number_of(numbers, 'number')} in {number_of(len(tables), 'table')}, from "
        f"{number_of(len(collection.sources), 'result file')}; written "
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC. A number links to the file that it is from.",
        style=_asset("style.css"),
        script=_asset("chart.js") + _asset("page.js"),
        navigation="".join(f'<li><a href="#{t.slug}">{escape(t.title)}</a></li>' for t in tables)
        + '<li><a href="#sources">Sources</a></li>',
        filters=_filters(tables),
        damaged="".join(
            f'<p class="warning" role="note">Damaged, and not in this report: {escape(f"{path}: {why}")}</p>'
            for path, why in collection.damaged
        ),
        sections="\n".join(_section(table, table.slug in charted) for table in tables),
        sources=_sources(collection, folder),
        # Within a script element, only its end tag and comments are special.
        charts=json.dumps(charts, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
    )


def _asset(name: str) -> str:
    return files("hylora_eval.report").joinpath("assets", name).read_text(encoding="utf-8")


def _filters(tables: Sequence[Table]) -> str:
    """Check boxes for the attentions of all rows, and one for errors."""
    subjects = [s for table in tables for s in _subjects(table)]
    groups = (
        ("trained", "Trained with", [s.trained for s in subjects if s.trained]),
        ("evaluated", "Evaluated with", [s.evaluated for s in subjects if s.evaluated]),
    )
    parts = []
    for name, legend, labels in groups:
        boxes = "".join(
            f'<label><input type="checkbox" name="{name}" value="{escape(label)}" checked>{escape(label)}</label>'
            for label in dict.fromkeys(labels)
        )
        if boxes:
            parts.append(f"<fieldset><legend>{legend}</legend>{boxes}</fieldset>")
    parts.append('<label><input type="checkbox" id="errors" checked>Errors</label>')
    return "".join(parts)


def _subjects(table: Table) -> Iterable[Subject]:
    if table.subjects_in == "columns":
        return [column.subject for column in table.columns]
    return [row.subject for section in table.sections for row in section.rows]


def _section(table: Table, has_chart: bool) -> str:
    figure = f'<figure data-chart="{table.slug}" aria-label="Chart: {escape(table.title)}"></figure>'
    return "\n".join(
        [
            f'<section class="result" id="{table.slug}" aria-labelledby="{table.slug}-title"{_shared(table)}>',
            f'<h2 id="{table.slug}-title">{escape(table.title)}</h2>',
            f'<p class="caption">{escape(table.caption)}</p>',
            *(f'<p class="warning" role="note">{escape(warning)}</p>' for warning in table.warnings),
            *([figure] if has_chart else []),
            *(["<details><summary>Show the table</summary>"] if table.is_detail else []),
            f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{table.slug}-title">',
            _table(table),
            "</div>",
            *(["</details>"] if table.is_detail else []),
            *(f'<p class="verdict">{escape(verdict)}</p>' for verdict in table.verdicts),
            _notes(table),
            "</section>",
        ]
    )


def _shared(table: Table) -> str:
    """Filters act on a table as a whole where its columns are of one attention."""
    return _attributes(table.columns[0].subject) if table.subjects_in == "columns" else ""


def _attributes(subject: Subject) -> str:
    trained = f' data-trained="{escape(subject.trained)}"' if subject.trained else ""
    return f'{trained} data-evaluated="{escape(subject.evaluated)}"'


def _table(table: Table) -> str:
    better = {True: ' data-better="higher"', False: ' data-better="lower"', None: ""}[table.higher_is_better]
    bodies = "\n".join(_body(table, section) for section in table.sections)
    better = better if table.subjects_in == "rows" else ""
    return f"<table{better}>\n<thead>{_head(table)}</thead>\n{bodies}\n</table>"


def _head(table: Table) -> str:
    groups = [(group, list(members)) for group, members in groupby(table.columns, lambda column: column.group)]
    grouped = any(group for group, _ in groups)
    stub = f'<th class="stub" scope="col"{" rowspan=2" if grouped else ""}>{escape(table.stub)}</th>'
    labels = "".join(f'<th scope="col">{escape(column.label)}</th>' for column in table.columns)
    if not grouped:
        return f"<tr>{stub}{labels}</tr>"
    spans = "".join(f'<th scope="colgroup" colspan="{len(members)}">{escape(group)}</th>' for group, members in groups)
    return f"<tr>{stub}{spans}</tr><tr>{labels}</tr>"


def _body(table: Table, section: Section) -> str:
    title = ""
    if section.title and len(table.sections) > 1:
        title = (
            f'<tr><th class="section" scope="rowgroup" colspan="{len(table.columns) + 1}"><span>'
            f"{escape(section.title)}</span></th></tr>"
        )
    rows = "\n".join(_row(table, row) for row in section.rows)
    return f"<tbody>{title}{rows}</tbody>"


def _row(table: Table, row: Row) -> str:
    attributes = "" if row.subject is None else _attributes(row.subject)
    detail = f"<small>{escape(row.detail)}</small>" if row.detail else ""
    cells = "".join(_cell(table, column, cell) for column, cell in zip(table.columns, row.cells, strict=True))
    return f'<tr{attributes}><th scope="row">{escape(row.label)}{detail}</th>{cells}</tr>'


def _cell(table: Table, column: Column, cell: Cell) -> str:
    measurement = cell.measurement
    if measurement is None:
        return f'<td class="missing" aria-label="not measured">{cell.text}</td>'
    places = "\n".join(str(place) for place in measurement.places)
    link = (
        f'<a href="#source-{measurement.places[0].source.number}" title="{escape(places)}">{escape(cell.text)}'
        '<span class="spoken best-word"> (best)</span></a>'
    )
    error = f'<span class="error">{escape(cell.error_text)}</span>' if cell.error_text else ""
    marks = "".join(f'<sup><a href="#{table.slug}-note-{i + 1}">{note_letter(i)}</a></sup>' for i in cell.notes)
    comparable = cell.comparable and measurement.value is not None and math.isfinite(measurement.value)
    value = f' data-value="{escape(cell.text)}"' if comparable else ""
    best = ' class="best"' if cell.best else ""
    return f"<td{best}{value}>{link}{error}{marks}</td>"


def _notes(table: Table) -> str:
    if not table.notes:
        return ""
    items = "".join(f'<li id="{table.slug}-note-{i}">{escape(note)}</li>' for i, note in enumerate(table.notes, 1))
    return f'<ol class="notes">{items}</ol>'


def _sources(collection: Collection, folder: Path) -> str:
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("", "file", "kind", "model", "created", "versions", "sha256")
    )
    rows = "\n".join(_source(source, folder) for source in collection.sources)
    parts = [
        '<section class="result sources" id="sources" aria-labelledby="sources-title">',
        '<h2 id="sources-title">Sources</h2>',
        '<div class="scroll" tabindex="0" role="region" aria-labelledby="sources-title">',
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>",
    ]
    replaced = [f"{older.places[0]}, by {newer.places[0]}" for older, newer in collection.superseded]
    skipped = [f"{path}: {why}" for path, why in collection.skipped]
    for heading, lines in (("Superseded by newer measurements", replaced), ("Skipped", skipped)):
        if lines:
            items = "".join(f"<li>{escape(line)}</li>" for line in lines)
            parts.append(
                f'<details class="skipped"><summary>{heading} ({len(lines)})</summary><ul>{items}</ul></details>'
            )
    return "\n".join([*parts, "</section>"])


def _source(source: Source, folder: Path) -> str:
    link = escape(Path(os.path.relpath(source.path, folder)).as_posix())
    return (
        f'<tr id="source-{source.number}"><th scope="row">[{source.number}]</th>'
        f'<td class="wrap"><a href="{link}">{escape(str(source.path))}</a></td><td>{escape(source.kind)}</td>'
        f'<td class="wrap">{escape(source.model)}</td><td>{escape(source.created)}</td>'
        f'<td class="wrap">{escape(source.versions)}</td>'
        f'<td class="wrap"><code>{source.sha256}</code></td></tr>'
    )
