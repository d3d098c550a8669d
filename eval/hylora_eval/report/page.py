# SPDX-License-Identifier: Apache-2.0
"""A report as one HTML page that needs nothing else: tables, charts drawn by a script within it, and sources."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any

from hylora_eval.report.charts import chart, series_styles
from hylora_eval.report.collect import Collection
from hylora_eval.report.heat_map import heat_map, heat_scale
from hylora_eval.report.measurements import Source, Subject
from hylora_eval.report.names import name_subjects, short_names
from hylora_eval.report.tables import Cell, Column, Row, Section, Table, note_letter
from hylora_eval.wording import number_of

__all__ = ["page"]

# Up to so many, nobody needs to search.
_FEW_RUNS = 5


def page(title: str, tables: Sequence[Table], collection: Collection, folder: Path) -> str:
    """The whole report.

    Args:
        title: of it.
        tables: finished.
        collection: what they are from.
        folder: the page will be in; links to result files are relative to it.
    """
    places = {subject: i for i, subject in enumerate(dict.fromkeys(s for table in tables for s in table.subjects()))}
    charts = [drawn for table in tables if (drawn := chart(table, places)) is not None]
    charted = {drawn["slug"] for drawn in charts}
    # Within a script element, only its end tag and comments are special.
    data = json.dumps({"subjects": _subjects(places), "charts": charts}, ensure_ascii=False, allow_nan=False)
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
        filters=_filters(list(places)),
        damaged="".join(
            f'<p class="warning" role="note">Damaged, and not in this report: {escape(f"{path}: {why}")}</p>'
            for path, why in collection.damaged
        ),
        sections="\n".join(_section(table, table.slug in charted, places) for table in tables),
        sources=_sources(collection, folder),
        data=data.replace("<", "\\u003c"),
    )


def _asset(name: str) -> str:
    return files("hylora_eval.report").joinpath("assets", name).read_text(encoding="utf-8")


def _subjects(subjects: Iterable[Subject]) -> list[dict[str, Any]]:
    """What the page's script knows of each: what it is filtered by, found by, picked by and drawn as."""
    names = name_subjects(subjects)
    return [
        {
            "run": subject.run,
            "trained": subject.trained,
            "evaluated": subject.evaluated,
            "words": f"{subject.label}, {subject.run}, {names[subject].detail}".lower(),
            "style": style,
        }
        for subject, style in series_styles(subjects).items()
    ]


def _filters(subjects: list[Subject]) -> str:
    """Check boxes for attentions and errors; where there are many runs, a search and a list to pick some from."""
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
    parts.append('<label><input type="checkbox" id="errors" checked>Errors in tables</label>')
    runs = {subject.run: subject.run for subject in subjects}
    # Those without an attention are no paths, but names already.
    runs |= short_names(subject.run for subject in subjects if subject.evaluated)
    if len(runs) > _FEW_RUNS:
        boxes = "".join(
            f'<label><input type="checkbox" name="run" value="{escape(run)}">{escape(name)}</label>'
            for run, name in sorted(runs.items(), key=lambda pair: pair[1])
        )
        parts.append(
            '<label>Search <input type="search" id="search" placeholder="run, attention, rank 8"></label>'
            f'<details class="picker"><summary>Pick runs (<span id="picked">0</span> of {len(runs)})</summary>'
            f'<div role="group" aria-label="Runs">{boxes}</div></details>'
            '<label><input type="checkbox" id="only">Show the picked alone</label>'
        )
    return "".join(parts)


def _section(table: Table, has_chart: bool, places: dict[Subject, int]) -> str:
    figure = f'<figure data-chart="{table.slug}" aria-label="Chart: {escape(table.title)}"></figure>'
    conditions = f"<details><summary>Conditions</summary>{escape(table.conditions)}</details>"
    return "\n".join(
        [
            f'<section class="result" id="{table.slug}" aria-labelledby="{table.slug}-title"'
            f"{_subject_marks(table.subjects(), places)}>",
            f'<h2 id="{table.slug}-title">{escape(table.title)}</h2>',
            f'<div class="caption"><p>{escape(table.caption)}</p>{conditions if table.conditions else ""}</div>',
            *(f'<p class="warning" role="note">{escape(warning)}</p>' for warning in table.warnings),
            *([figure] if has_chart else []),
            *([_heat_maps(table, places)] if table.is_heat_map else []),
            *(["<details><summary>Show the table</summary>"] if table.is_detail else []),
            f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{table.slug}-title">',
            _table(table, places),
            "</div>",
            *(["</details>"] if table.is_detail else []),
            *(f'<p class="verdict">{escape(verdict)}</p>' for verdict in table.verdicts),
            _notes(table),
            "</section>",
        ]
    )


def _subject_marks(subjects: Iterable[Subject], places: dict[Subject, int]) -> str:
    """What an element is of: it is hidden with the last of them."""
    numbers = " ".join(str(places[subject]) for subject in subjects)
    return f' data-subjects="{numbers}"' if numbers else ""


def _heat_maps(table: Table, places: dict[Subject, int]) -> str:
    maps = "".join(
        f"<figure{_subject_marks([section.rows[0].subject], places)}><figcaption>{escape(section.title)}</figcaption>"
        f"{heat_map(table, section)}</figure>"
        for section in table.sections
    )
    return f'{heat_scale()}<div class="heats">{maps}</div>'


def _table(table: Table, places: dict[Subject, int]) -> str:
    better = {True: ' data-better="higher"', False: ' data-better="lower"', None: ""}[table.higher_is_better]
    bodies = "\n".join(_body(table, section, places) for section in table.sections)
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


def _body(table: Table, section: Section, places: dict[Subject, int]) -> str:
    title = ""
    if section.title:
        title = (
            f'<tr><th class="section" scope="rowgroup" colspan="{len(table.columns) + 1}"><span>'
            f"{escape(section.title)}</span></th></tr>"
        )
    rows = "\n".join(_row(table, row, places) for row in section.rows)
    subjects = dict.fromkeys(row.subject for row in section.rows if row.subject is not None)
    return f"<tbody{_subject_marks(subjects, places)}>{title}{rows}</tbody>"


def _row(table: Table, row: Row, places: dict[Subject, int]) -> str:
    attributes = "" if row.subject is None else _subject_marks([row.subject], places)
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
    value = f' data-value="{escape(cell.text)}"' if cell.compared else ""
    value += "" if cell.worse_from is None else f' data-worse="{cell.worse_from}"'
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
        f"<td><details><summary><code>{source.sha256[:8]}</code></summary><code>{source.sha256}</code></details></td>"
        "</tr>"
    )
