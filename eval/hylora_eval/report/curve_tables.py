# SPDX-License-Identifier: Apache-2.0
"""The tables of chapter 3 (3.2, 3.4 to 3.6; figures 3.5 to 3.15): networks trained for levels of compression."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from hylora_eval.report.tables import Column, Row, Section, Table
from hylora_eval.report.training_metrics import SPREAD, Metric, per_cent, sections_of, seeds_of
from hylora_eval.report.training_settings import Setting, by_network

__all__ = ["curve_tables"]

# What a level of each is.
_UNITS = {
    "sparsity": "share of weights that go",
    "width": "share of channels that stay",
    "bits": "bits of a weight",
}
_ACCURACY = per_cent("Top-1 accuracy", "curve.accuracy")
_REVERSED = replace(_ACCURACY, item="curve.reversed_accuracy")
_RECALIBRATED = replace(_ACCURACY, item="curve.recalibrated_accuracy")
_DRIFT = Metric("Drift", "curve.drift")
_LOSS = Metric("Loss", "curve.loss")
_COSTS = (
    per_cent("Sparsity", "costs.sparsity"),
    Metric("Parameters", "costs.parameters", number="count"),
    Metric("Weights (kB)", "costs.bytes", scale=1e-3),
    Metric("Stored (kB)", "costs.stored_bytes", scale=1e-3),
    Metric("Operations (10⁶)", "costs.operations", scale=1e-6),
    Metric("Time on the CPU (ms)", "costs.seconds", scale=1e3),
    Metric("Time on the CPU (×)", "costs.relative_seconds", number="ratio"),
)


def curve_tables(settings: Sequence[Setting], source: str, learned: str) -> Iterator[Table]:
    """All tables that the settings fill, apart for each compression, whose levels have units of their own.

    Args:
        settings: of runs that learned from the same data.
        source: of that data, for titles.
        learned: what it was, for captions.
    """
    for compression in dict.fromkeys(setting.compression for setting in settings if setting.compression):
        members = [setting for setting in settings if setting.compression == compression]
        yield from _of_compression(compression, members, source, learned)


def _of_compression(compression: str, members: list[Setting], source: str, learned: str) -> Iterator[Table]:
    def table(
        slug: str, title: str, caption: str, levels: list[float], sections: Iterable[Section], **options
    ) -> Iterator[Table]:
        if found := tuple(sections):
            yield Table(
                slug=f"training-{slug}-{compression}",
                title=f"{title} by level of {compression}: {source}",
                caption=f"{caption} Levels are {_UNITS.get(compression, compression)}. {SPREAD}",
                conditions=learned,
                columns=tuple(Column(f"{level:g}") for level in levels),
                sections=found,
                **options,
            )

    def curves(slug: str, title: str, caption: str, of: Metric, rows: list[Setting], **options) -> Iterator[Table]:
        levels = _levels(rows, of.item, compression)
        sections = sections_of(by_network(rows), [replace(of, length=level) for level in levels])
        chart = {"x_label": f"level ({_UNITS.get(compression, compression)})", "log_x": False}
        yield from table(slug, title, caption, levels, sections, stub="Setting", details="seeds", **chart, **options)

    accuracy = {"higher_is_better": True, "y_label": "top-1 accuracy (%)"}
    yield from curves(
        "curve", "Accuracy", "Top-1 accuracy (%) on held-out images; higher is better.", _ACCURACY, members, **accuracy
    )
    yield from curves(
        "curve-loss",
        "Loss",
        "Mean cross entropy on held-out images; lower is better.",
        _LOSS,
        members,
        higher_is_better=False,
        y_label="loss",
        is_detail=True,
    )
    yield from curves(
        "reversed",
        "The reversed line",
        "Top-1 accuracy (%); reversed, weights are those of the level that is mirrored in the middle of the range.",
        _ACCURACY,
        _beside(members, _REVERSED, "reversed"),
        **accuracy,
    )
    yield from curves(
        "recalibrated",
        "Recalibrated batch norms",
        "Top-1 accuracy (%); recalibrated, statistics of batch norms are taken anew at each level.",
        _ACCURACY,
        _beside(members, _RECALIBRATED, "recalibrated"),
        **accuracy,
    )
    yield from curves(
        "drift",
        "Drift of batch norms",
        "Mean absolute difference of stored means from those of batches, over layers; lower is better.",
        _DRIFT,
        members,
        higher_is_better=False,
        y_label="difference of means",
    )
    levels = _levels(members, "costs.", compression)
    yield from table(
        "costs",
        "What a network takes",
        "Operations are of one image's pass forward, a multiplication and an addition being two; weights are those of "
        "convolutions and linear layers, without biases and norms. Times are those of the machine.",
        levels,
        _costs(members, levels),
        stub="",
        details="seeds",
        higher_is_better=None,
    )


def _levels(settings: Iterable[Setting], item: str, compression: str = "") -> list[float]:
    """Those at which something was measured, from the weakest to the strongest."""
    found = {length for setting in settings for _, name, length in setting.runs if name.startswith(item)}
    return sorted(found, reverse=compression != "sparsity")


def _beside(settings: Iterable[Setting], other: Metric, suffix: str) -> list[Setting]:
    """Each setting that has another accuracy too, and after it that one in the accuracy's place."""
    rows = []
    for setting in settings:
        levels = {key[2]: runs for key, runs in setting.runs.items() if key[1] == other.item}
        if levels:
            runs = {replace(_ACCURACY, length=level).key: runs for level, runs in levels.items()}
            rows += [setting, replace(setting, name=f"{setting.name}, {suffix}", runs=runs)]
    return rows


def _costs(members: list[Setting], levels: list[float]) -> Iterator[Section]:
    """A section for each setting, and in it a row for each kind of cost."""
    networks = len({setting.network for setting in members})
    for setting in members:
        rows = []
        for cost in _COSTS:
            metrics = [replace(cost, length=level) for level in levels]
            cells = tuple(metric.cell(setting, setting) for metric in metrics)
            if seeds := seeds_of(setting, metrics, cells):
                rows.append(Row(cost.label, seeds, cells, setting.subject))
        if rows:
            title = f"{setting.network}, {setting.name}" if networks > 1 else setting.name
            yield Section(title, tuple(rows))
