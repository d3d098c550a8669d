# SPDX-License-Identifier: Apache-2.0
"""What models find by how deep it lies and how long the context is, out of the samples of RULER's needles."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from hylora_eval.estimates import percent_interval
from hylora_eval.report.apart import apart, numbered
from hylora_eval.report.measurements import Measurement
from hylora_eval.report.names import name_subjects
from hylora_eval.report.tables import Cell, Column, Row, Section, Table
from hylora_eval.ruler.tasks import GROUPS, TASKS

__all__ = ["depth_tables"]

# Bands of depth, in per cent of the context: the first is its beginning.
_BANDS = tuple(f"{low} to {low + 10}" for low in range(0, 100, 10))
# The answers of other tasks hang on more than one place: those of vt on a chain, those of qa_2 on several documents.
_NEEDLES = tuple(name for name in TASKS if name.startswith("niah_"))
_GROUPS = {group: tasks for group, tasks in GROUPS.items() if set(tasks) <= set(_NEEDLES)}
_GROUPS |= {task: (task,) for task in _NEEDLES if not any(task in tasks for tasks in GROUPS.values())}


def depth_tables(measurements: list[Measurement]) -> list[Table]:
    """Tables with a section for each model and group of needles, a row for each band of depth, a column by length.

    Args:
        measurements: of RULER; those that do not keep their samples' depths, or are not of needles, are left out.
    """
    kept = [measurement for measurement in measurements if measurement.depths and measurement.item in _NEEDLES]
    tables = []
    for part, conditions, warnings in apart(kept):
        lengths = sorted({measurement.length for measurement in part})
        names = name_subjects(measurement.subject for measurement in part)
        table = Table(
            slug="needles",
            title="Needles by depth and context length",
            caption="Per cent found, and n samples that it is from. Depth is where a needle lies, in per cent of the "
            "context from its beginning; a sample with several counts once in each band that holds one.",
            conditions=conditions,
            stub="Depth (%)",
            columns=tuple(Column(str(length)) for length in lengths),
            sections=tuple(
                Section(f"{name.series}, {group}", _rows(found, lengths))
                for subject, name in names.items()
                for group, found in _by_group(m for m in part if m.subject == subject)
            ),
            higher_is_better=None,
            is_detail=True,
            is_heat_map=True,
            warnings=tuple(warnings),
        )
        tables.append(table)
    return numbered(tables)


def _by_group(measurements: Iterator[Measurement]) -> Iterator[tuple[str, list[Measurement]]]:
    """Those of each group's tasks, which are named where not all of them are there."""
    found = list(measurements)
    for group, tasks in _GROUPS.items():
        members = [measurement for measurement in found if measurement.item in tasks]
        there = [task for task in tasks if any(measurement.item == task for measurement in members)]
        if there:
            yield group if len(there) == len(tasks) else f"{group}: {', '.join(there)}", members


def _rows(found: list[Measurement], lengths: list[float]) -> tuple[Row, ...]:
    columns = [_bands([measurement for measurement in found if measurement.length == length]) for length in lengths]
    return tuple(
        Row(label, "", tuple(_cell(label, *column[band]) for column in columns), found[0].subject)
        for band, label in enumerate(_BANDS)
    )


def _bands(found: list[Measurement]) -> list[tuple[list[float], list[Measurement]]]:
    """For each band the scores of the samples with a needle in it, and the measurements that these are of."""
    bands: list[tuple[list[float], list[Measurement]]] = [([], []) for _ in _BANDS]
    for measurement in found:
        touched = set()
        for score, depths in zip(measurement.figure.scores[0], measurement.depths, strict=True):
            # The end of the context belongs to the last band.
            own = {min(int(depth / 100 * len(_BANDS)), len(_BANDS) - 1) for depth in depths}
            for band in own:
                bands[band][0].append(score)
            touched |= own
        for band in touched:
            bands[band][1].append(measurement)
    return bands


def _cell(label: str, scores: list[float], measurements: list[Measurement]) -> Cell:
    if not scores:
        return Cell(None)
    value = fmean(scores)
    return Cell(
        Measurement(
            kind="depth",
            subject=measurements[0].subject,
            item=f"depth {label}",
            length=measurements[0].length,
            value=value,
            error=None,
            interval=percent_interval(value, len(scores)),
            samples=len(scores),
            places=tuple(place for measurement in measurements for place in measurement.places),
            conditions=measurements[0].conditions,
        )
    )
