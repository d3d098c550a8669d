# SPDX-License-Identifier: Apache-2.0
"""The tables of sparse networks: trained sparse, or compressed at once after training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from hylora_eval.report.tables import Column, Table
from hylora_eval.report.training_metrics import SPREAD, Metric, per_cent, sections_of
from hylora_eval.report.training_settings import Key, Setting, by_network

__all__ = ["sparse_tables"]

# Those that end at the sparsity of the recipe.
_SCHEDULES = ("alternating", "gradual")

_ACCURACY = per_cent("Top-1 accuracy", "accuracy")
_MASK_CHANGE = per_cent("Mask change", "sparse.mask_change")
_OUTCOMES = (
    _ACCURACY,
    per_cent("Sparsity", "sparsity"),
    *(
        Metric(
            f"{name.capitalize()} FLOPs (× dense)",
            f"sparse.flops.{name}",
            number="ratio",
            over=f"sparse.flops.dense_{name}",
        )
        for name in ("training", "inference")
    ),
    per_cent("Dense outcome: top-1 accuracy", "dense.accuracy"),
    Metric("Its loss", "dense.loss"),
    per_cent("Its agreement with the sparse one", "dense.agreement"),
    Metric("Cross entropy of the two", "dense.cross_entropy"),
)


def sparse_tables(settings: Sequence[Setting], source: str, learned: str) -> Iterator[Table]:
    """All tables that the settings fill.

    Args:
        settings: of runs that learned from the same data.
        source: of that data, for titles.
        learned: what it was, for captions.
    """

    def table(
        slug: str, title: str, caption: str, metrics: Iterable[Metric], members: list[Setting], **options
    ) -> Iterator[Table]:
        metrics = [metric for metric in metrics if any(metric.key in setting.runs for setting in members)]
        if sections := tuple(sections_of(by_network(members), metrics)):
            yield Table(
                slug=f"training-{slug}",
                title=f"{title}: {source}",
                caption=f"{caption} {SPREAD}",
                conditions=learned,
                stub="Setting",
                details="seeds",
                columns=tuple(Column(metric.label) for metric in metrics),
                sections=sections,
                **options,
            )

    rows = list(_at_levels(settings))
    levels = sorted({item.split(".accuracy")[0] for row in rows for _, item, _ in row.runs}, key=_strength)
    yield from table(
        "sparse-accuracy",
        "Accuracy by sparsity",
        "Top-1 accuracy (%) on held-out images; higher is better. Networks trained with a schedule stand at the "
        "sparsity that it ends with; others are compressed at once after training. Tuned, batch norms are taken anew.",
        (replace(_ACCURACY, label=level, item=f"{level}.accuracy") for level in levels),
        rows,
        higher_is_better=True,
        x_label="sparsity (share of weights that go, or pattern)",
        y_label="top-1 accuracy (%)",
        log_x=False,
    )
    sparse = [
        setting for setting in settings if any(item.startswith(("sparse.", "dense.")) for _, item, _ in setting.runs)
    ]
    yield from table(
        "sparse-outcomes",
        "What sparse training costs and brings",
        "FLOPs are over those of dense training, and of one image's pass through the dense network. The dense outcome "
        "is the network as the last dense phase leaves it.",
        _OUTCOMES,
        sparse,
        higher_is_better=None,
    )
    # Elsewhere weights go for good, and no mask keeps what the one before did not.
    alternating = [setting for setting in sparse if setting.facts.get("sparse.schedule") == "alternating"]
    firsts = sorted({first for setting in alternating for _, item, first in setting.runs if item == _MASK_CHANGE.item})
    yield from table(
        "mask-change",
        "Mask change by phase",
        "Of the weights that a phase keeps, those (%) that the mask before did not; by the phase's first epoch.",
        (replace(_MASK_CHANGE, label=f"{first:g}", length=first) for first in firsts),
        alternating,
        higher_is_better=None,
        x_label="first epoch of the phase",
        y_label="kept weights that are new (%)",
        log_x=False,
    )


def _at_levels(settings: Iterable[Setting]) -> Iterator[Setting]:
    """Each setting with nothing but its accuracies at levels, and after it those with tuned batch norms."""
    for setting in settings:
        for suffix, name in (("", "accuracy"), (", tuned", "tuned_accuracy")):
            runs = {
                _at(item.split(".", 1)[1].rpartition(".")[0]): found
                for (kind, item, _), found in setting.runs.items()
                if kind == "training" and item.startswith("one_shot.") and item.endswith(f".{name}")
            }
            if not suffix and (trained := _trained_at(setting)) and _ACCURACY.key in setting.runs:
                runs[_at(trained)] = setting.runs[_ACCURACY.key]
            if runs:
                yield replace(setting, name=f"{setting.name}{suffix}", runs=runs)


def _at(level: str) -> Key:
    return replace(_ACCURACY, item=f"{level}.accuracy").key


def _trained_at(setting: Setting) -> str:
    """The sparsity that a schedule ends with, as recipes write it; "" where there is none."""
    finish, schedule = (setting.facts.get(f"sparse.{name}") for name in ("finish", "schedule"))
    return setting.facts.get("sparse.sparsity", "") if schedule in _SCHEDULES and finish != "dense" else ""


def _strength(level: str) -> tuple[int, float, str]:
    """Shares by their size, then patterns and bits."""
    try:
        return 0, float(level), level
    except ValueError:
        return 1, 0.0, level
