# SPDX-License-Identifier: Apache-2.0
"""What subjects are called within a table: short, and yet apart from each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from hylora_eval.report.measurements import NOT_TUNED, Subject

__all__ = ["Name", "name_subjects", "short_names", "sort_key"]

_ORDER = (NOT_TUNED, "Full-Attn", "SW-Attn", "S²-Attn", "SE-Attn")


@dataclass(frozen=True)
class Name:
    """What a subject is called.

    Attributes:
        label: its attentions.
        detail: its run, and what tells it from others.
        series: in one line, unlike that of any other.
    """

    label: str
    detail: str
    series: str


def sort_key(subject: Subject) -> tuple:
    """The thesis's order: not fine-tuned, full attention, its rivals, SE-Attn."""

    def place(label: str) -> tuple[int, str]:
        return (_ORDER.index(label) if label in _ORDER else len(_ORDER), label)

    return subject.base, place(subject.trained), place(subject.evaluated), subject.rank or 0, subject.run


def name_subjects(subjects: Iterable[Subject]) -> dict[Subject, Name]:
    """Name each of some subjects, in the thesis's order."""
    subjects = sorted(set(subjects), key=sort_key)
    runs = short_names([subject.run for subject in subjects])
    differing = _differing(subjects)
    names = {}
    for subject in subjects:
        alike = [other for other in subjects if other.label == subject.label]
        detail = [runs[subject.run], *_facts(subject, differing)]
        apart = _facts(subject, _differing(alike))
        # The run's name where facts do not tell it from the others.
        if not apart or sum(_facts(other, _differing(alike)) == apart for other in alike) > 1:
            apart = [runs[subject.run], *apart]
        series = subject.label if len(alike) == 1 else f"{subject.label}, {', '.join(apart)}"
        names[subject] = Name(subject.label, ", ".join(detail), series)
    return names


def _differing(subjects: Iterable[Subject]) -> set[str]:
    """The facts in which some of the subjects that have them differ."""
    values: dict[str, set[str]] = {}
    for subject in subjects:
        for name, value in subject.described().items():
            values.setdefault(name, set()).add(value)
    return {name for name, found in values.items() if len(found) > 1}


def _facts(subject: Subject, chosen: set[str]) -> list[str]:
    facts = {name.rpartition("/")[2]: value for name, value in subject.described().items() if name in chosen}
    # "HyLoRA" says by itself what it is.
    return [value if name == "adapter" else f"{name} {value}" for name, value in facts.items()]


def short_names(runs: Iterable[str]) -> dict[str, str]:
    """The last part of each path, or as many as tell it from the others."""
    runs = set(runs)
    parts = {run: PurePath(run).parts for run in runs}
    short = {}
    for run in runs:
        for count in range(1, len(parts[run]) + 1):
            ending = parts[run][-count:]
            if sum(parts[other][-count:] == ending for other in runs) == 1:
                break
        short[run] = "/".join(ending).replace("//", "/")
    return short
