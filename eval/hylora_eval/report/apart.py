# SPDX-License-Identifier: Apache-2.0
"""What must not be compared stands apart: measurements by their conditions, and the tables made of them."""

from __future__ import annotations

from dataclasses import replace

from hylora_eval.report.measurements import Measurement
from hylora_eval.report.tables import Table

__all__ = ["apart", "conditions_of", "numbered"]


def apart(measurements: list[Measurement]) -> list[tuple[list[Measurement], str, list[str]]]:
    """Measurements that share their conditions, with those in words, and a warning where there are others."""
    parts: dict[tuple, list[Measurement]] = {}
    for measurement in measurements:
        parts.setdefault(measurement.conditions, []).append(measurement)
    names = dict.fromkeys(name for conditions in parts for name, _ in conditions)
    differing = [name for name in names if len({dict(conditions).get(name) for conditions in parts}) > 1]
    words = {"tokens": "evaluated text", "run": "timed run"}
    warnings = []
    if differing:
        text = ", ".join(words.get(name, name) for name in differing)
        warnings = [f"Not to be compared with the other tables of this kind: they differ in {text}."]
    return [(part, conditions_of(part), warnings) for part in parts.values()]


def conditions_of(part: list[Measurement]) -> str:
    """What a table's measurements are of, and the conditions that they share, in words."""
    words = []
    if data := ", ".join(sorted({measurement.data for measurement in part if measurement.data})):
        words.append(data)
    for name, value in part[0].conditions:
        # Whole hashes are in the files; here they tell tables apart.
        words.append(f"{name} {value[:12] if len(value) == 64 else value}")
    return f"{'; '.join(words)}." if words else ""


def numbered(tables: list[Table]) -> list[Table]:
    """Tables of one kind, told apart by a number where there are several."""
    if len(tables) < 2:
        return tables
    return [
        replace(table, slug=f"{table.slug}-{index}", title=f"{table.title} ({index} of {len(tables)})")
        for index, table in enumerate(tables, 1)
    ]
