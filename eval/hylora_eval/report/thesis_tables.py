# SPDX-License-Identifier: Apache-2.0
"""The thesis's tables (chapter 6: tables 6.1 to 6.6, figures 6.2 to 6.9) out of measurements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from hylora_eval.estimates import complete_groups, resolution
from hylora_eval.report.apart import apart, conditions_of, numbered
from hylora_eval.report.collect import Collection
from hylora_eval.report.depth_tables import depth_tables
from hylora_eval.report.difference_tables import with_differences
from hylora_eval.report.finishing import finish
from hylora_eval.report.harness_tasks import GROUPS, THESIS_TASKS
from hylora_eval.report.measurements import Measurement, Subject, average
from hylora_eval.report.names import name_subjects
from hylora_eval.report.retrieval_tables import retrieval_tables
from hylora_eval.report.tables import Cell, Column, Row, Section, Table
from hylora_eval.report.training_tables import training_tables
from hylora_eval.ruler.tasks import AVERAGES, TASKS

__all__ = ["lay_tables"]

ATTENTION = "Attention (training → evaluation)"
TOKENS = "context length (tokens)"


def lay_tables(collection: Collection, baseline: str | None = None) -> list[Table]:
    """All tables that the measurements fill, those that must not be compared apart.

    Args:
        collection: what was found.
        baseline: run whose differences to the others have tables of their own, as for `with_differences`; None for
            none.

    Raises:
        ValueError: if there is no such run.
    """
    of_kind: dict[str, list[Measurement]] = defaultdict(list)
    for measurement in collection.measurements:
        of_kind[measurement.kind].append(measurement)
    perplexity, ruler = of_kind["perplexity"], of_kind["ruler"]
    ruler_averages = _ruler_averages(ruler)
    tables = [
        *_by_length(
            perplexity,
            slug="perplexity",
            title="Perplexity by context length",
            caption="Lower is better. Errors are over documents; rows that read the same documents move together, so "
            "their differences are known better.",
            higher_is_better=False,
            y_label="perplexity",
            tell_bases=True,
        ),
        *_thesis_tasks(of_kind["task"]),
        *_other_tasks(of_kind["other task"]),
        *_by_length(
            ruler_averages,
            AVERAGES,
            slug="ruler",
            title="RULER by group",
            caption="Per cent, higher is better. Average: the mean of all eleven tasks, not of the groups.",
            higher_is_better=True,
            y_label="score (%)",
        ),
        *_by_length(
            ruler,
            TASKS,
            slug="ruler-tasks",
            title="RULER by task",
            caption="Per cent, higher is better.",
            higher_is_better=True,
            y_label="score (%)",
            x_label="",
            is_detail=True,
        ),
        *depth_tables(ruler),
        *_lora(perplexity, "Perplexity", "perplexity", "lora-perplexity"),
        *_lora([m for m in ruler_averages if m.item == "Average"], "RULER average", "score (%)", "lora-ruler"),
    ]
    spread = " Median, with the smallest and largest of the rounds; decoding per token."
    tables += retrieval_tables(of_kind["retrieval"])
    for kind, title, unit, caption in (("time", "Time", "ms", spread), ("memory", "Peak memory", "MiB", "")):
        tables += _by_length(
            of_kind[kind],
            dict.fromkeys(measurement.item for measurement in of_kind[kind]),
            slug=kind,
            title=f"{title} by context length",
            caption=f"{unit}, lower is better.{caption}",
            stub="Attention",
            higher_is_better=False,
            y_label=unit,
            log_y=True,
        )
    tables += training_tables([*of_kind["training"], *of_kind["images"]])
    if baseline is not None:
        tables = with_differences(tables, baseline)
    return [finish(table, collection.superseded) for table in tables]


def _by_length(
    measurements: list[Measurement],
    items: Iterable[str] = ("",),
    *,
    caption: str,
    tell_bases: bool = False,
    **options: Any,
) -> list[Table]:
    """Tables with a section for each item and a column for each length."""
    tables = []
    for part, conditions, warnings in apart(measurements):
        lengths = sorted({measurement.length for measurement in part})
        of_item = {item: [m for m in part if m.item == item] for item in items}
        sections = (Section(item, _rows(found, lengths)) for item, found in of_item.items() if found)
        table = Table(
            columns=tuple(Column(str(length)) for length in lengths),
            sections=tuple(sections),
            caption=caption,
            conditions=conditions,
            warnings=(*warnings, *(_several_bases(part) if tell_bases else ())),
            verdicts=_verdicts(part),
            **{"stub": ATTENTION, "x_label": TOKENS, **options},
        )
        tables.append(table)
    return numbered(tables)


def _verdicts(part: list[Measurement]) -> tuple[str, ...]:
    """What scores of so many samples can tell, where it is known how many there were."""
    samples = [measurement.samples for measurement in part if measurement.samples is not None]
    return (f"In brackets: 95 % intervals (Wilson). {resolution(min(samples))}",) if samples else ()


def _thesis_tasks(measurements: list[Measurement]) -> list[Table]:
    """Tables 6.4 and 6.5, with an average of each group."""
    if not measurements:
        return []
    members = {group: [task for task, known in THESIS_TASKS.items() if known.group == group] for group in GROUPS}
    of_subject: dict[Subject, dict[str, Measurement]] = defaultdict(dict)
    for measurement in measurements:
        of_subject[measurement.subject][measurement.item] = measurement
    averages = [
        average(group, found) for own in of_subject.values() for group, found in complete_groups(members, own).items()
    ]
    columns, items = [], []
    for group, tasks in members.items():
        if any(measurement.item in tasks for measurement in measurements):
            columns += [Column(THESIS_TASKS[task].label, group) for task in tasks] + [Column("Avg.", group)]
            items += [*tasks, group]
    return [
        Table(
            slug="tasks",
            title="Short- and long-context tasks",
            caption="Per cent, higher is better; an average only where all of its tasks are there.",
            stub=ATTENTION,
            columns=tuple(columns),
            sections=(Section("", _rows([*measurements, *averages], items, by="item")),),
            higher_is_better=True,
            x_label="task",
            y_label="score (%)",
        )
    ]


def _other_tasks(measurements: list[Measurement]) -> list[Table]:
    tables = []
    for higher, text in ((True, "Higher is better"), (False, "Lower is better"), (None, "Nothing is marked")):
        part = [measurement for measurement in measurements if measurement.higher_is_better is higher]
        if part:
            items = sorted({measurement.item for measurement in part})
            table = Table(
                slug="other-tasks",
                title="Other tasks of lm-eval",
                caption=f"Task (metric), as lm-eval gives them. {text}.",
                stub=ATTENTION,
                columns=tuple(map(Column, items)),
                sections=(Section("", _rows(part, items, by="item")),),
                higher_is_better=higher,
            )
            tables.append(table)
    return numbered(tables)


def _ruler_averages(measurements: list[Measurement]) -> list[Measurement]:
    """The averages of section 6.6.3.4, where every task is there."""
    found: dict[tuple, dict[str, Measurement]] = defaultdict(dict)
    for measurement in measurements:
        found[measurement.subject, measurement.length, measurement.conditions][measurement.item] = measurement
    whole = (complete_groups(AVERAGES, tasks) for tasks in found.values())
    return [average(name, members) for groups in whole for name, members in groups.items()]


def _lora(measurements: list[Measurement], title: str, y_label: str, slug: str) -> list[Table]:
    """Variants at equal rank and ranks at equal variant (table 6.6, figures 6.7 and 6.8), all else being equal."""
    families: dict[tuple, list[Measurement]] = {}
    for measurement in measurements:
        subject = measurement.subject
        if subject.variant is not None and subject.rank is not None:
            family = subject.base, subject.trained, subject.evaluated, subject.facts, measurement.conditions
            families.setdefault(family, []).append(measurement)
    tables = []
    for part in families.values():
        columns = _lora_columns({measurement.subject for measurement in part})
        if not columns:
            continue
        subject, lengths = part[0].subject, sorted({measurement.length for measurement in part})
        cell_of = {(m.subject, m.length): Cell(m) for m in part}
        rows = tuple(
            Row(str(length), "", tuple(cell_of.get((column.subject, length), Cell(None)) for column in columns))
            for length in lengths
        )
        higher = part[0].higher_is_better
        table = Table(
            slug=slug,
            title=f"{title} by LoRA variant and rank, {subject.label}",
            caption=f"{'Higher' if higher else 'Lower'} is better. LoRA+ is the thesis's name of the variant "
            "longlora.",
            conditions=conditions_of(part),
            stub="Context length",
            columns=tuple(columns),
            sections=(Section("", rows),),
            higher_is_better=higher,
            subjects_in="columns",
            x_label=TOKENS,
            y_label=y_label,
        )
        tables.append(table)
    return numbered(tables)


def _lora_columns(subjects: set[Subject]) -> list[Column]:
    columns = []
    order = ["LoRA", "LoRA+", "HyLoRA"]
    ranked = sorted(subjects, key=lambda s: (order.index(s.variant) if s.variant in order else 3, s.rank, s.run))
    names = name_subjects(subjects)

    def add(group: str, members: list[Subject], label) -> None:
        labels = [label(subject) for subject in members]
        if len(set(labels)) > 1:
            for subject, text in zip(members, labels, strict=True):
                extra = f" ({names[subject].detail})" if labels.count(text) > 1 else ""
                columns.append(Column(text + extra, group, subject))

    for rank in sorted({subject.rank for subject in subjects}):
        add(f"Variant (rank {rank})", [s for s in ranked if s.rank == rank], lambda s: s.variant)
    for variant in dict.fromkeys(subject.variant for subject in ranked):
        add(f"Rank ({variant})", [s for s in ranked if s.variant == variant], lambda s: str(s.rank))
    return columns


def _rows(measurements: Iterable[Measurement], keys: Sequence, by: str = "length") -> tuple[Row, ...]:
    """A row for each subject, a cell for each key."""
    measurements = list(measurements)
    cell_of = {(m.subject, getattr(m, by)): Cell(m) for m in measurements}
    names = name_subjects(m.subject for m in measurements)
    return tuple(
        Row(name.label, name.detail, tuple(cell_of.get((subject, key), Cell(None)) for key in keys), subject)
        for subject, name in names.items()
    )


def _several_bases(part: list[Measurement]) -> list[str]:
    bases = sorted({measurement.subject.base for measurement in part})
    return [f"The rows come from different base models: {', '.join(bases)}."] if len(bases) > 1 else []
