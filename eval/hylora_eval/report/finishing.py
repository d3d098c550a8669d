# SPDX-License-Identifier: Apache-2.0
"""What is known of a table's cells by comparing them: decimals, the best, and notes on what to beware of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from hylora_eval.report.clear import is_clear
from hylora_eval.report.measurements import Measurement
from hylora_eval.report.tables import Cell, Section, Table

__all__ = ["finish"]

_DIGITS = {
    "perplexity": 2, "task": 2, "ruler": 1, "retrieval": 1, "depth": 0, "ratio": 2, "per cent": 2, "count": 0,
}  # fmt: skip

# A cell by its row and column.
Place = tuple[int, int]


def finish(table: Table, superseded: Sequence[tuple[Measurement, Measurement]] = ()) -> Table:
    """Choose decimals, mark the best values, and note deviations from what a column shares.

    Args:
        table: with plain cells.
        superseded: (older, newer) measurements; where they differ, the newer one's cell says so.
    """
    earlier: dict[Measurement, list[str]] = {}
    for older, newer in superseded:
        if older.value != newer.value:
            text = (
                f"[{older.places[0].source.number}] has an earlier measurement with another value; the newest is shown"
            )
            earlier.setdefault(newer, []).append(text)
    notes: dict[str, int] = {}
    sections = tuple(_finished(table, section, earlier, notes) for section in table.sections)
    return replace(table, sections=sections, notes=tuple(notes))


def _finished(table: Table, section: Section, earlier: dict[Measurement, list[str]], notes: dict[str, int]) -> Section:
    """A section with its cells finished; new notes are added to `notes`, which numbers them."""
    rows, columns = range(len(section.rows)), range(len(table.columns))
    cells = {(i, j): section.rows[i].cells[j] for i in rows for j in columns}
    for j in columns:
        column = [(i, j) for i in rows]
        for place, deviations in zip(column, _deviations([cells[place].measurement for place in column]), strict=True):
            measurement = cells[place].measurement
            remarks = measurement.remarks if measurement else ()
            texts = (*deviations, *earlier.get(measurement, ()), *remarks)
            cells[place] = replace(
                cells[place],
                digits=_digits(measurement),
                comparable=not deviations,
                notes=tuple(notes.setdefault(text, len(notes)) for text in texts),
            )
    if table.higher_is_better is not None:
        for group in _compared(table, rows, columns):
            found = _with_best([cells[place] for place in group], table.higher_is_better)
            cells |= dict(zip(group, found, strict=True))
    finished = (replace(row, cells=tuple(cells[i, j] for j in columns)) for i, row in enumerate(section.rows))
    return replace(section, rows=tuple(finished))


def _compared(table: Table, rows: Iterable[int], columns: Iterable[int]) -> Iterator[list[Place]]:
    """The cells that are compared with each other: those of a column, or of a row under one heading."""
    if table.subjects_in == "rows":
        yield from ([(i, j) for i in rows] for j in columns)
        return
    for group in dict.fromkeys(column.group for column in table.columns):
        members = [j for j in columns if table.columns[j].group == group]
        yield from ([(i, j) for j in members] for i in rows)


def _digits(measurement: Measurement | None) -> int:
    """Decimals: those that a kind is reported with, or as many as make three figures."""
    if measurement is None or measurement.kind in _DIGITS:
        return 0 if measurement is None else _DIGITS[measurement.kind]
    if not measurement.finite or measurement.value == 0:
        return 0
    return min(6, max(0, 2 - math.floor(math.log10(abs(measurement.value)))))


def _deviations(column: Sequence[Measurement | None]) -> list[list[str]]:
    """For each measurement of a column, in what it was measured otherwise than most."""
    found = [[] for _ in column]
    variations = [dict(measurement.variations) if measurement else {} for measurement in column]
    for name in dict.fromkeys(name for variation in variations for name in variation):
        counts = Counter(variation[name] for variation in variations if name in variation)
        usual = counts.most_common(1)[0][0]
        for texts, variation in zip(found, variations, strict=True):
            if variation.get(name, usual) != usual:
                # Hashes say nothing to a reader.
                values = f": {variation[name]}, where others have {usual}" if len(usual) < 64 else " that others lack"
                texts.append(f"{name}{values}; not compared with them")
    return found


def _with_best(cells: Sequence[Cell], higher: bool) -> list[Cell]:
    """Mark the best of comparable cells and all that are not clearly worse; none where nothing is.

    Cells are compared from the best to the worst, each with the next ones until one is clearly worse: what lies
    between the two is as good as the better one. Values that are shown alike are marked alike.
    """
    shown = {
        i: float(cell.text)
        for i, cell in enumerate(cells)
        if cell.comparable and cell.measurement is not None and cell.measurement.finite
    }
    ranked = sorted(shown, key=lambda i: (shown[i], cells[i].measurement.value), reverse=higher)
    found, limit = list(cells), 0
    for rank, i in enumerate(ranked):
        limit = max(limit, rank + 1)
        while limit < len(ranked):
            other = ranked[limit]
            if shown[other] != shown[i] and is_clear(cells[i].measurement, cells[other].measurement):
                break
            limit += 1
        worse = shown[ranked[limit]] if limit < len(ranked) else None
        found[i] = replace(found[i], compared=True, worse_from=worse)
    if ranked and (limit := found[ranked[0]].worse_from) is not None:
        for i in ranked:
            found[i] = replace(found[i], best=shown[i] > limit if higher else shown[i] < limit)
    return found
