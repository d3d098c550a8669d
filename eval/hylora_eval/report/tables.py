# SPDX-License-Identifier: Apache-2.0
"""Tables of measurements: cells with their best values marked, rows in sections, and notes on what to beware of."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from hylora_eval.report.measurements import Measurement, Subject

__all__ = ["MISSING", "Cell", "Column", "Row", "Section", "Table", "note_letter", "number_text"]

MISSING = "—"


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
        best: whether no other that it is compared with is clearly better, and another is clearly worse.
        comparable: whether it was measured as most of its column were.
        compared: whether it was compared with others.
        worse_from: the value as shown from which on others are clearly worse; None where none is.
        notes: indices of the table's notes that concern it, from 0.
    """

    measurement: Measurement | None
    digits: int = 2
    best: bool = False
    comparable: bool = True
    compared: bool = False
    worse_from: float | None = None
    notes: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The value as shown, without its error."""
        if self.measurement is None:
            return MISSING
        if self.measurement.value is None:
            return self.measurement.remark or MISSING
        sign = "+" if self.measurement.kind == "difference" and self.measurement.value > 0 else ""
        return sign + number_text(self.measurement.value, self.digits)

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
