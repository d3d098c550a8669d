# SPDX-License-Identifier: Apache-2.0
"""Tables of measurements: cells with their best values marked, rows in sections, and notes on what to beware of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from hylora_eval.report.measurements import Measurement, Subject

__all__ = ["MISSING", "Cell", "Column", "Row", "Section", "Table", "finish", "note_letter", "number_text"]

MISSING = "—"

_DIGITS = {"perplexity": 2, "task": 2, "ruler": 1, "retrieval": 1, "depth": 0, "ratio": 2, "per cent": 2, "count": 0}


def number_text(value: float, digits: int) -> str:
    """A number with so many decimals; in powers of ten where it is too large for them to mean anything."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.2e}"


def note_letter(index: int) -> str:
    """What a note is marked with: a to z, then aa, bb and so on."""
    return chr(ord("a") + index % 26) * (index // 26 + 1)


@dataclass(frozen=True)
class Cell:
    """A place in a table.

    Attributes:
        measurement: None where nothing was measured.
        digits: decimals shown.
        best: whether no other that it is compared with is better, as shown.
        comparable: whether it was measured as most of its column were.
        notes: indices of the table's notes that concern it, from 0.
    """

    measurement: Measurement | None
    digits: int = 2
    best: bool = False
    comparable: bool = True
    notes: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The value as shown, without its error."""
        if self.measurement is None:
            return MISSING
        if self.measurement.value is None:
            return self.measurement.remark or MISSING
        return number_text(self.measurement.value, self.digits)

    @property
    def error_text(self) -> str:
        """What stands beside the value: interval, error or spread, chance, or samples of a depth; "" for none."""
        if self.measurement is None or not self.measurement.finite:
            return ""
        if self.measurement.kind == "depth":
            return f"n = {self.measurement.samples}"
        if self.measurement.spread is not None:
            smallest, largest = (number_text(value, self.digits) for value in self.measurement.spread)
            return f"({smallest} to {largest})"
        chance = self.measurement.chance
        beside = [] if chance is None else [f"(chance {number_text(chance, self.digits)})"]
        if self.measurement.interval is not None:
            low, high = (number_text(value, max(self.digits - 1, 0)) for value in self.measurement.interval)
            return " ".join([f"[{low}, {high}]", *beside])
        error = self.measurement.error
        if error is None:
            return "".join(beside)
        # An error that rounds to nothing would look like none.
        rounds_away = 0 < error < 0.5 * 10**-self.digits
        return f"± {error:.1g}" if rounds_away else f"± {number_text(error, self.digits)}"


@dataclass(frozen=True)
class Column:
    """A column of numbers: its label, the heading it stands under with others, and the subject it is of, if any."""

    label: str
    group: str = ""
    subject: Subject | None = None


@dataclass(frozen=True)
class Row:
    """A row: its label, more on it, its numbers, and the subject it is of, if any."""

    label: str
    detail: str
    cells: tuple[Cell, ...]
    subject: Subject | None = None


@dataclass(frozen=True)
class Section:
    """Rows that are compared with each other, under a title where a table has several."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        slug: names its file and its place in a page.
        title: of it.
        caption: what it shows.
        conditions: under which it was measured; "" for none.
        stub: heading over the labels of rows.
        columns: of numbers.
        sections: of rows.
        higher_is_better: None where that is not known, and nothing is marked.
        subjects_in: "rows" or "columns": along these, values are compared.
        x_label: what a chart's horizontal axis is; "" where a chart makes no sense.
        y_label: what the numbers are.
        log_x: whether a chart's horizontal axis starts as a logarithmic one, if its places are numbers.
        log_y: whether a chart starts with a logarithmic axis of values.
        is_detail: whether a page shows it only when asked.
        is_heat_map: whether each of its sections is drawn as a map; its numbers are per cent.
        details: what the details of rows are.
        notes: footnotes of cells, in order.
        warnings: on what must not be compared.
        verdicts: sentences on what the numbers tell.
    """

    slug: str
    title: str
    caption: str
    stub: str
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    higher_is_better: bool | None
    subjects_in: str = "rows"
    x_label: str = ""
    y_label: str = ""
    log_x: bool = True
    log_y: bool = False
    is_detail: bool = False
    is_heat_map: bool = False
    conditions: str = ""
    details: str = "run"
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()

    def subjects(self) -> list[Subject]:
        """What its rows or columns are of, each once."""
        along = self.columns if self.subjects_in == "columns" else [row for part in self.sections for row in part.rows]
        return list(dict.fromkeys(one.subject for one in along if one.subject is not None))

    def cells(self) -> Iterable[Cell]:
        """Every cell, row by row."""
        return (cell for section in self.sections for row in section.rows for cell in row.cells)


def finish(table: Table, superseded: Sequence[tuple[Measurement, Measurement]] = ()) -> Table:
    """Choose decimals, mark the best values, and note deviations from what a column shares.

    Args:
        table: with plain cells.
        superseded: (older, newer) measurements; where they differ, the newer one's cell says so.
    """
    replaced: dict[Measurement, list[Measurement]] = {}
    for older, newer in superseded:
        if older.value != newer.value:
            replaced.setdefault(newer, []).append(older)
    notes: dict[str, int] = {}
    sections = []
    for section in table.sections:
        columns = zip(*(row.cells for row in section.rows), strict=True)
        columns = [_annotated(column, replaced, notes) for column in columns]
        if table.subjects_in == "rows":
            columns = [_with_best(column, table.higher_is_better) for column in columns]
        rows = list(zip(*columns, strict=True))
        if table.subjects_in == "columns":
            rows = [_with_best_of_groups(table, row) for row in rows]
        finished = (replace(row, cells=tuple(cells)) for row, cells in zip(section.rows, rows, strict=True))
        sections.append(replace(section, rows=tuple(finished)))
    return replace(table, sections=tuple(sections), notes=tuple(notes))


def _annotated(
    column: Sequence[Cell], replaced: dict[Measurement, list[Measurement]], notes: dict[str, int]
) -> list[Cell]:
    """A column's cells with their decimals and notes; new notes are added to `notes`, which numbers them."""
    cells = []
    for cell, deviations in zip(column, _deviations(column), strict=True):
        remarks = cell.measurement.remarks if cell.measurement else ()
        texts = [*deviations, *_history(cell.measurement, replaced), *remarks]
        indices = tuple(notes.setdefault(text, len(notes)) for text in texts)
        cells.append(replace(cell, digits=_digits(cell.measurement), comparable=not deviations, notes=indices))
    return cells


def _digits(measurement: Measurement | None) -> int:
    """Decimals: those that a kind is reported with, or as many as make three figures."""
    if measurement is None or measurement.kind in _DIGITS:
        return 0 if measurement is None else _DIGITS[measurement.kind]
    if not measurement.finite or measurement.value == 0:
        return 0
    return min(6, max(0, 2 - math.floor(math.log10(abs(measurement.value)))))


def _deviations(column: Sequence[Cell]) -> list[list[str]]:
    """For each cell of a column, in what it was measured otherwise than most."""
    found = [[] for _ in column]
    variations = [dict(cell.measurement.variations) if cell.measurement else {} for cell in column]
    for name in dict.fromkeys(name for variation in variations for name in variation):
        counts = Counter(variation[name] for variation in variations if name in variation)
        usual = counts.most_common(1)[0][0]
        for texts, variation in zip(found, variations, strict=True):
            if variation.get(name, usual) != usual:
                # Hashes say nothing to a reader.
                values = f": {variation[name]}, where others have {usual}" if len(usual) < 64 else " that others lack"
                texts.append(f"{name}{values}; not compared with them")
    return found


def _history(measurement: Measurement | None, replaced: dict[Measurement, list[Measurement]]) -> list[str]:
    """Which files have other, earlier values for the same thing."""
    return [
        f"[{older.places[0].source.number}] has an earlier measurement with another value; the newest is shown"
        for older in replaced.get(measurement, [])
    ]


def _with_best_of_groups(table: Table, row: Sequence[Cell]) -> list[Cell]:
    """A row in which the cells under one heading are compared."""
    groups = groupby(zip(table.columns, row, strict=True), lambda pair: pair[0].group)
    return [cell for _, pairs in groups for cell in _with_best([cell for _, cell in pairs], table.higher_is_better)]


def _with_best(cells: Sequence[Cell], higher: bool | None) -> list[Cell]:
    """Mark the best of comparable cells, all that are shown alike; none where nothing is worse."""
    shown = [
        float(cell.text) if cell.comparable and cell.measurement is not None and cell.measurement.finite else None
        for cell in cells
    ]
    values = {value for value in shown if value is not None}
    if higher is None or len(values) < 2:
        return list(cells)
    best = max(values) if higher else min(values)
    return [replace(cell, best=value == best) for cell, value in zip(cells, shown, strict=True)]
