# SPDX-License-Identifier: Apache-2.0
"""Numbers of training runs as cells of tables: means over seeds, and ratios to the first setting."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hylora_eval.report.tables import Cell, Row, Section
from hylora_eval.report.training_settings import Key, Setting, over_seeds

__all__ = ["SPREAD", "Metric", "per_cent", "sections_of", "seeds_of"]

SPREAD = "± is the standard deviation over seeds."


@dataclass(frozen=True)
class Metric:
    """A column of numbers.

    Attributes:
        label: of the column.
        item, kind, length: of its measurements.
        scale: what they are multiplied by.
        number: the kind of number, which says how many decimals it has.
        relative: whether to divide by the mean of the section's first setting.
        over: the item whose mean, of the same setting, they are divided by; "" for none.
    """

    label: str
    item: str
    kind: str = "training"
    length: float | None = None
    scale: float = 1.0
    number: str = "training"
    relative: bool = False
    over: str = ""

    @property
    def key(self) -> Key:
        return self.kind, self.item, self.length

    def cell(self, setting: Setting, base: Setting) -> Cell:
        """The mean over a setting's seeds; nothing where there is no number, or none to relate it to."""
        runs, reference = setting.runs.get(self.key), 1 / self.scale
        if self.relative or self.over:
            whole = setting.runs.get((self.kind, self.over, self.length)) if self.over else base.runs.get(self.key)
            reference = statistics.fmean([run.value for run in whole or ()] or [0.0])
        if not (runs and reference):
            return Cell(None)
        return Cell(over_seeds(runs, setting.subject, self.number, 1 / reference))


def per_cent(label: str, item: str) -> Metric:
    """A share, shown in per cent."""
    return Metric(f"{label} (%)", item, scale=100, number="per cent")


def seeds_of(setting: Setting, metrics: Iterable[Metric], cells: Iterable[Cell]) -> str:
    """How many seeds the cells of a setting's row are from, in words; "" where they are empty."""
    filled = (metric for metric, cell in zip(metrics, cells, strict=True) if cell.measurement)
    seeds = max((len(setting.runs[metric.key]) for metric in filled), default=0)
    return f"{seeds} seed{'s' if seeds > 1 else ''}" if seeds else ""


def sections_of(sections: Sequence[tuple[str, list[Setting]]], metrics: Sequence[Metric]) -> Iterable[Section]:
    """A section for each network, without settings that have no number."""
    for network, members in sections:
        rows = []
        for setting in members:
            cells = tuple(metric.cell(setting, members[0]) for metric in metrics)
            if seeds := seeds_of(setting, metrics, cells):
                rows.append(Row(setting.name, seeds, cells, setting.subject))
        if rows:
            yield Section(network, tuple(rows))
