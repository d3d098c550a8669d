# SPDX-License-Identifier: Apache-2.0
"""Charts of tables, as plain data for the page's script: panels, series and points that know their sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from hylora_eval.report.measurements import NOT_TUNED, Measurement, Subject
from hylora_eval.report.names import name_subjects
from hylora_eval.report.tables import Cell, Table

__all__ = ["chart", "series_styles"]

# Places in the palette of assets/style.css, which colour-blind readers can tell apart. An attention keeps its colour.
_COLORS = {NOT_TUNED: 0, "Full-Attn": 1, "SW-Attn": 2, "S²-Attn": 3, "SE-Attn": 4}
_PALETTE = 8


class _Series(NamedTuple):
    """A line of a chart: its name, what it is of, and the cells it is drawn from with their places on the axis."""

    name: str
    subject: Subject
    cells: list[tuple[float, Cell]]


def series_styles(subjects: Iterable[Subject]) -> dict[Subject, dict[str, Any]]:
    """The looks of what is drawn on a page, alike in all of its charts: `color` and `marker` as numbers, `dashed`.

    A line is dashed where another than full attention evaluates what was trained.
    """
    styles: dict[Subject, dict[str, Any]] = {}
    for subject in subjects:
        first = _COLORS.get(subject.trained or subject.evaluated, 5)
        looks = list(_looks(first, bool(subject.trained) and subject.evaluated != "Full-Attn"))
        # Those without training are of other kinds, and never in one chart with those that have it.
        used = [style for other, style in styles.items() if bool(other.trained) == bool(subject.trained)]
        styles[subject] = next((look for look in looks if look not in used), looks[0])
    return styles


def _looks(first: int, dashed: bool) -> Iterator[dict[str, Any]]:
    """Colours each with its own marker, then with those of others."""
    for turn in range(_PALETTE):
        for color in (place % _PALETTE for place in range(first, first + _PALETTE)):
            yield {"color": color, "marker": (color + turn) % _PALETTE, "dashed": dashed}


def chart(table: Table, places: dict[Subject, int]) -> dict[str, Any] | None:
    """The chart of a table, None where it has none or there is nothing to draw.

    Args:
        table: finished.
        places: of subjects in the page's list of them.

    Returns:
        `slug`, `title`, `xLabel`, `yLabel`, `logX`, `logY`, `shareY` (one vertical axis for all panels) and `panels`.
        A panel has a `title`, the `categories` of its horizontal axis (None where it has numbers) and its `series` of
        `points`; a point with a `gap` has no line to the one before it, for a value is missing between them.
    """
    if not table.x_label:
        return None
    lengths = table.subjects_in == "columns" or _places(table) is not None
    panels = [
        {
            "title": title,
            "categories": None if lengths else [column.label for column in table.columns],
            "series": [
                {
                    "name": name,
                    "subject": places[subject],
                    "points": list(_points(cells)),
                }
                for name, subject, cells in series
            ],
        }
        for title, series in _panels(table)
    ]
    # A single place on the axis makes no chart.
    panels = [panel for panel in panels if len({p["x"] for series in panel["series"] for p in series["points"]}) > 1]
    if not panels:
        return None
    return {
        "slug": table.slug,
        "title": table.title,
        "xLabel": table.x_label,
        "yLabel": table.y_label,
        "logX": lengths and table.log_x,
        "logY": table.log_y,
        # Kinds of work take times of different orders.
        "shareY": not table.log_y,
        "panels": panels,
    }


def _panels(table: Table) -> Iterator[tuple[str, list[_Series]]]:
    """The panels of a table's chart: a title each, and the series in it."""
    if table.subjects_in == "columns":
        rows = [row for section in table.sections for row in section.rows]
        names = name_subjects(column.subject for column in table.columns)
        for group in dict.fromkeys(column.group for column in table.columns):
            of_group = [(j, column.subject) for j, column in enumerate(table.columns) if column.group == group]
            yield (
                group,
                [
                    _Series(names[subject].series, subject, [(int(row.label), row.cells[j]) for row in rows])
                    for j, subject in of_group
                ],
            )
        return
    places = _places(table) or range(len(table.columns))
    names = name_subjects(table.subjects())
    for section in table.sections:
        yield (
            section.title,
            [
                _Series(names[row.subject].series, row.subject, list(zip(places, row.cells, strict=True)))
                for row in section.rows
            ],
        )


def _places(table: Table) -> list[float] | None:
    """Where columns stand on an axis of numbers; None where they are called otherwise."""
    try:
        return [int(column.label) if column.label.isdigit() else float(column.label) for column in table.columns]
    except ValueError:
        return None


def _points(cells: Iterable[tuple[float, Cell]]) -> Iterator[dict[str, Any]]:
    """The points of a series, without those that cannot be drawn."""
    gap = False
    for x, cell in cells:
        if cell.measurement is not None and cell.measurement.finite:
            yield {**_point(x, cell), "gap": gap}
            gap = False
        else:
            gap = True


def _point(x: float, cell: Cell) -> dict[str, Any]:
    measurement: Measurement = cell.measurement
    low, high = measurement.spread or (measurement.value, measurement.value)
    if measurement.interval is not None:
        low, high = measurement.interval
    elif measurement.error is not None:
        low, high = measurement.value - measurement.error, measurement.value + measurement.error
    return {
        "x": x,
        "y": measurement.value,
        "low": low,
        "high": high,
        "text": f"{cell.text} {cell.error_text}".strip(),
        "places": [str(place) for place in measurement.places],
        "source": measurement.places[0].source.number,
    }
