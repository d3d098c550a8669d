# SPDX-License-Identifier: Apache-2.0
"""Tables of differences to a baseline: each beside the table whose numbers it is made of."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import PurePath

from hylora_eval.compare import Difference, Unpaired
from hylora_eval.compare.matching import Loss
from hylora_eval.report.measurements import Subject
from hylora_eval.report.names import name_subjects
from hylora_eval.report.tables import Cell, Section, Table
from hylora_eval.wording import number_of

__all__ = ["with_differences"]


def with_differences(tables: list[Table], baseline: str) -> list[Table]:
    """The tables, and after each that has the baseline in a row one of the differences of the other rows to it.

    Args:
        tables: with plain cells.
        baseline: path of a run, or its last parts; where it was evaluated under several attentions, the first row
            counts.

    Raises:
        ValueError: if there is no such run in a table whose numbers can be compared, naming those that are.
    """
    found: list[Table] = []
    runs: dict[str, None] = {}
    for table in tables:
        found.append(table)
        if table.subjects_in == "columns" or not any(_figure(cell) for cell in table.cells()):
            continue
        runs |= dict.fromkeys(subject.run for subject in table.subjects())
        if base := next((subject for subject in table.subjects() if _is_called(subject, baseline)), None):
            found.append(_difference_table(table, base))
    if len(found) == len(tables):
        names = ", ".join(runs) or "none, for no result keeps what a comparison needs"
        raise ValueError(f"--baseline {baseline!r} is no run in a table of perplexity or RULER; there are: {names}")
    return found


def _figure(cell: Cell) -> bool:
    return cell.measurement is not None and cell.measurement.figure is not None


def _is_called(subject: Subject, name: str) -> bool:
    parts = PurePath(name).parts
    return subject.run == name or PurePath(subject.run).parts[-len(parts) :] == parts


def _difference_table(table: Table, base: Subject) -> Table:
    is_loss = any(_figure(cell) and isinstance(cell.measurement.figure, Loss) for cell in table.cells())
    unit = "per cent of its perplexity" if is_loss else "points"
    name = name_subjects(table.subjects())[base].series
    sections = tuple(section for one in table.sections if (section := _less(one, base)).rows)
    cells = [cell for section in sections for row in section.rows for cell in row.cells]
    numbers = [cell.measurement for cell in cells if cell.measurement and cell.measurement.finite]
    outside = sum(not low <= 0 <= high for low, high in (number.interval for number in numbers))
    return replace(
        table,
        slug=f"{table.slug}-difference",
        title=f"{table.title}: difference to {PurePath(base.run).name}",
        caption=f"Each less {name}, in {unit}; {'lower' if is_loss else 'higher'} is better. 95 % intervals "
        "are over the same documents or samples, where both files keep what was found in each. What is hard for both "
        "drops out, so these tell much smaller differences than the intervals of the numbers themselves.",
        sections=sections,
        higher_is_better=None,
        y_label=f"difference ({'%' if is_loss else 'points'})",
        verdicts=(f"Of {number_of(len(numbers), 'difference')}, {outside} have an interval that leaves out 0.",),
    )


def _less(section: Section, base: Subject) -> Section:
    """A section's other rows less the baseline's; none where that is not in it."""
    first = next((row for row in section.rows if row.subject == base), None)
    others = [row for row in section.rows if row is not first] if first else []
    rows = (replace(row, cells=tuple(map(_less_cell, first.cells, row.cells))) for row in others)
    return replace(section, rows=tuple(row for row in rows if any(cell.measurement for cell in row.cells)))


def _less_cell(base: Cell, other: Cell) -> Cell:
    if not (_figure(base) and _figure(other)):
        return Cell(None)
    found = other.measurement.figure.less(base.measurement.figure)
    # How much larger a perplexity is follows from the difference of the losses.
    scaled = _per_cent if isinstance(other.measurement.figure, Loss) else float
    known = found.mean is not None
    return Cell(
        replace(
            other.measurement,
            kind="difference",
            value=scaled(found.mean) if known else None,
            error=None,
            interval=(scaled(found.low), scaled(found.high)) if known else None,
            samples=found.units if isinstance(found, Difference) else None,
            variations=(),
            remarks=(f"not paired: {found.reason}",) if isinstance(found, Unpaired) else (),
            places=(*other.measurement.places, *base.measurement.places),
            figure=None,
            depths=(),
        )
    )


def _per_cent(nats: float) -> float:
    return 100 * math.expm1(nats)
