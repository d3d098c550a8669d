# SPDX-License-Identifier: Apache-2.0
"""The tables of chapter 4 (4.1 to 4.7, and the numbers of figure 4.3) out of measurements of training runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hylora_eval.report.measurements import Measurement
from hylora_eval.report.tables import Cell, Column, Row, Section, Table
from hylora_eval.report.training_settings import Key, Setting, by_network, gather, over_seeds

__all__ = ["training_tables"]

_SPREAD = "± is the standard deviation over seeds."


@dataclass(frozen=True)
class _Metric:
    """A column of numbers.

    Attributes:
        label: of the column.
        item, kind, length: of its measurements.
        scale: what they are multiplied by.
        number: the kind of number, which says how many decimals it has.
        relative: whether to divide by the mean of the section's first setting.
    """

    label: str
    item: str
    kind: str = "training"
    length: int | None = None
    scale: float = 1.0
    number: str = "training"
    relative: bool = False

    @property
    def key(self) -> Key:
        return self.kind, self.item, self.length

    def cell(self, setting: Setting, base: Setting) -> Cell:
        """The mean over a setting's seeds; nothing where there is no number, or none to relate it to."""
        runs, reference = setting.runs.get(self.key), 1 / self.scale
        if self.relative:
            reference = statistics.fmean([run.value for run in base.runs.get(self.key, ())] or [0.0])
        if not (runs and reference):
            return Cell(None)
        return Cell(over_seeds(runs, setting.subject, self.number, 1 / reference))


def _per_cent(label: str, item: str) -> _Metric:
    return _Metric(f"{label} (%)", item, scale=100, number="per cent")


_RATIOS = (
    _Metric("Peak memory (×)", "peak_bytes", number="ratio", relative=True),
    _Metric("Training FLOPs (×)", "flops", number="ratio", relative=True),
    _Metric("Optimization updates (×)", "updates", number="ratio", relative=True),
    _Metric("Training time (×)", "seconds", number="ratio", relative=True),
)
_ACCURACY = _per_cent("Top-1 accuracy", "accuracy")
_QUALITY = (_ACCURACY, _per_cent("mAP", "ap"))
_MEASURED = (
    *_QUALITY,
    _per_cent("AP at 0.5", "ap50"),
    _per_cent("AP at 0.75", "ap75"),
    _Metric("Loss", "loss"),
    _per_cent("Averaged weights: top-1 accuracy", "average_accuracy"),
    _Metric("Averaged weights: loss", "average_loss"),
    _per_cent("Calibration error", "ece"),
    _Metric("Entropy skewness", "entropy_skewness", number="ratio"),
    _Metric("Embedding variance", "embedding_variance"),
    _per_cent("Its share in all variance", "embedding_variance_share"),
)
_TAKEN = (
    _Metric("Peak memory (MiB)", "peak_bytes", scale=2**-20),
    _Metric("Training FLOPs (10¹²)", "flops", scale=1e-12),
    _Metric("Updates", "updates", number="count"),
    _Metric("Time (s)", "seconds"),
    _Metric("Images seen", "images_seen", number="count"),
    _Metric("Parameters", "parameters", number="count"),
    _per_cent("Sparsity", "sparsity"),
)


def training_tables(measurements: list[Measurement]) -> list[Table]:
    """All tables that the measurements fill, apart for each task and the data that was learned from.

    Args:
        measurements: of the kinds "training" and "images".
    """
    conditions = list(dict.fromkeys(measurement.conditions for measurement in measurements))
    tables = []
    for number, chosen in enumerate(conditions, 1):
        part = [measurement for measurement in measurements if measurement.conditions == chosen]
        suffix = f"-{number}" if len(conditions) > 1 else ""
        tables += [replace(table, slug=f"{table.slug}{suffix}") for table in _tables(part)]
    return tables


def _tables(part: list[Measurement]) -> list[Table]:
    """The tables of runs that learned from the same data."""
    settings = gather(part)
    sections = by_network(settings)
    keys = dict.fromkeys(key for setting in settings for key in setting.runs)
    conditions = dict(part[0].conditions)
    task = conditions.pop("task")
    source = next((value for name, value in conditions.items() if name.endswith(".name")), task)
    more = [f"{name.partition('.')[2]} {value}" for name, value in conditions.items() if not name.endswith(".name")]
    learned = f"Task {task}; learned from {', '.join((source, *more))}." if conditions else f"Task {task}."
    known = {metric.item for metric in (*_MEASURED, *_TAKEN)}
    others = [item for kind, item, side in keys if kind == "training" and item not in known and side is None]
    sides = sorted(side for kind, _, side in keys if kind == "training" and side is not None)
    images = dict.fromkeys(measurement.data for measurement in part if measurement.kind == "images")
    baselines = ", ".join(dict.fromkeys(members[0].name for _, members in sections))

    def table(slug: str, title: str, caption: str, metrics: Iterable[_Metric], **options: Any) -> list[Table]:
        metrics = [metric for metric in metrics if metric.key in keys]
        if not metrics:
            return []
        options = {"higher_is_better": None, **options}
        return [
            Table(
                slug=f"training-{slug}",
                title=f"{title}: {source}",
                caption=f"{caption} {_SPREAD} {learned}",
                stub="Setting",
                details="seeds",
                columns=tuple(Column(metric.label) for metric in metrics),
                sections=tuple(_sections(sections, metrics)),
                **options,
            )
        ]

    return [
        *table(
            "ratios",
            "Cost of training",
            f"Relative to the first row ({baselines}); time and memory are those of the machine.",
            (*_RATIOS, *_QUALITY),
        ),
        *table(
            "measured",
            "What was measured",
            "On held-out images, when training was over.",
            (*_MEASURED, *(_Metric(item.replace("_", " ").capitalize(), item) for item in others)),
        ),
        *table(
            "sides",
            "Accuracy by resolution",
            "Top-1 accuracy (%) at heights and widths in pixels; higher is better.",
            (replace(_ACCURACY, label=str(side), item="accuracy_by_side", length=side) for side in sides),
            higher_is_better=True,
            x_label="height and width (pixels)",
            y_label="top-1 accuracy (%)",
        ),
        *table(
            "images",
            "Other images",
            "The trained networks on images that are not those held out.",
            (
                replace(metric, label=f"{name}: {metric.label}", kind="images", item=f"{metric.item}, {name}")
                for name in images
                for metric in _MEASURED
                if metric.item in ("accuracy", "ece")
            ),
        ),
        *table("taken", "What training took", "The numbers behind the ratios.", _TAKEN, is_detail=True),
    ]


def _sections(sections: Sequence[tuple[str, list[Setting]]], metrics: Sequence[_Metric]) -> Iterable[Section]:
    """A section for each network, without settings that have no number."""
    for network, members in sections:
        rows = []
        for setting in members:
            cells = tuple(metric.cell(setting, members[0]) for metric in metrics)
            seeds = max((len(cell.measurement.places) for cell in cells if cell.measurement), default=0)
            if seeds:
                rows.append(Row(setting.name, f"{seeds} seed{'s' if seeds > 1 else ''}", cells, setting.subject))
        if rows:
            yield Section(network, tuple(rows))
