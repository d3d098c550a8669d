# SPDX-License-Identifier: Apache-2.0
"""The tables of training runs out of their measurements."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hylora_eval.report.curve_tables import curve_tables
from hylora_eval.report.learners import FOLD
from hylora_eval.report.measurements import Measurement
from hylora_eval.report.sparse_tables import sparse_tables
from hylora_eval.report.tables import Column, Table
from hylora_eval.report.training import SPARSE
from hylora_eval.report.training_metrics import SPREAD, Metric, per_cent, sections_of
from hylora_eval.report.training_settings import by_network, gather

__all__ = ["training_tables"]

_RATIOS = (
    Metric("Peak memory (×)", "peak_bytes", number="ratio", relative=True),
    Metric("Training FLOPs (×)", "flops", number="ratio", relative=True),
    Metric("Optimization updates (×)", "updates", number="ratio", relative=True),
    Metric("Training time (×)", "seconds", number="ratio", relative=True),
)
_ACCURACY = per_cent("Top-1 accuracy", "accuracy")
_QUALITY = (_ACCURACY, per_cent("mAP", "ap"), per_cent("mAP", "map"), per_cent("Retrieval", "retrieval"))
_MEASURED = (
    *_QUALITY,
    per_cent("Top-1 accuracy at the strongest level", "strongest_accuracy"),
    per_cent("AP at 0.5", "ap50"),
    per_cent("AP at 0.75", "ap75"),
    Metric("Loss", "loss"),
    *(Metric(f"{of.capitalize()} loss", f"{of}_loss") for of in ("audio", "video", "inter", "intra")),
    per_cent("Averaged weights: top-1 accuracy", "average_accuracy"),
    Metric("Averaged weights: loss", "average_loss"),
    per_cent("Calibration error", "ece"),
    Metric("Entropy skewness", "entropy_skewness", number="ratio"),
    Metric("Embedding variance", "embedding_variance"),
    per_cent("Its share in all variance", "embedding_variance_share"),
)
_TAKEN = (
    Metric("Peak memory (MiB)", "peak_bytes", scale=2**-20),
    Metric("Training FLOPs (10¹²)", "flops", scale=1e-12),
    Metric("Updates", "updates", number="count"),
    Metric("Time (s)", "seconds"),
    *(Metric(f"{rows.capitalize()} seen", f"{rows}_seen", number="count") for rows in ("images", "clips")),
    Metric("Parameters", "parameters", number="count"),
    per_cent("Sparsity", "sparsity"),
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
    if any(FOLD in dict(measurement.subject.facts) for measurement in part):
        learned += " The number of a seed is the mean over its folds."
    known = {metric.item for metric in (*_MEASURED, *_TAKEN)}
    others = [
        item
        for kind, item, length in keys
        if kind == "training" and item not in known and item.partition(".")[0] not in SPARSE and length is None
    ]
    sides = sorted(side for _, item, side in keys if item == "accuracy_by_side")
    images = dict.fromkeys(measurement.data for measurement in part if measurement.kind == "images")
    baselines = ", ".join(dict.fromkeys(members[0].name for _, members in sections))

    def table(slug: str, title: str, caption: str, metrics: Iterable[Metric], **options: Any) -> list[Table]:
        metrics = [metric for metric in metrics if metric.key in keys]
        if not metrics:
            return []
        options = {"higher_is_better": None, **options}
        return [
            Table(
                slug=f"training-{slug}",
                title=f"{title}: {source}",
                caption=f"{caption} {SPREAD}",
                conditions=learned,
                stub="Setting",
                details="seeds",
                columns=tuple(Column(metric.label) for metric in metrics),
                sections=tuple(sections_of(sections, metrics)),
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
            "On what is held out, when training was over.",
            (*_MEASURED, *(Metric(item.replace("_", " ").capitalize(), item) for item in others)),
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
        *curve_tables(settings, source, learned),
        *sparse_tables(settings, source, learned),
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
