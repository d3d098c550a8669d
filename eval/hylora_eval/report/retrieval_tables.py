# SPDX-License-Identifier: Apache-2.0
"""Tables of what rules retrieve, out of measurements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hylora_eval.report.apart import apart, numbered
from hylora_eval.report.measurements import Measurement, Place, Source, Subject
from hylora_eval.report.names import name_subjects
from hylora_eval.report.tables import Cell, Column, Row, Section, Table
from hylora_eval.results import Result, pointer
from hylora_eval.verdicts import VERDICTS, counted_samples, hit_interval, in_words, judge

__all__ = ["read_rules", "retrieval_tables"]

# Each column: where its share stands in a rule's result, and the share of random blocks.
_COLUMNS = {
    "found, of attended": (("attended", "hit_rate"), ("attended", "chance")),
    "found, of all": (("hit_rate",), ("chance",)),
    "mass": (("mass",), ("mass_of_random",)),
}


def read_rules(result: Result, subject: Subject, source: Source) -> Iterator[Measurement]:
    """The shares that rules found.

    Args:
        result: of `hylora eval retrieval`.
        subject: the model that it is about.
        source: its file.
    """
    settings = result.pick("settings", kind=dict)
    conditions = {
        "tokens": result.pick("data", "tokens_sha256", kind=str),
        "tokens retrieved": settings.get("read"),
        "chunk size": settings.get("chunk_size"),
    }
    known = tuple((name, str(value)) for name, value in conditions.items() if value is not None)
    for index in range(len(result.pick("results", kind=list))):
        samples = result.pick("results", index, "samples", kind=int)
        for rule in range(len(result.pick("results", index, "rules", kind=list))):
            keys = ("results", index, "rules", rule)
            name = result.pick(*keys, "rule", kind=str)
            size = result.pick(*keys, "options", "block_size", kind=int)
            for column, (value, chance) in _COLUMNS.items():
                share = result.optional_number(*keys, *value)
                if share is None:
                    continue
                yield Measurement(
                    kind="retrieval",
                    subject=replace(subject, facts=(*subject.facts, ("rule", f"{name}, blocks of {size}"))),
                    item=f"{result.pick('results', index, 'task', kind=str)} / {column}",
                    length=result.pick("results", index, "length", kind=int),
                    value=100 * share,
                    error=None,
                    places=(Place(source, pointer(*keys, *value)),),
                    conditions=known,
                    higher_is_better=True,
                    **_beside(result, (*keys, *value), (*keys, *chance), samples),
                )


def _beside(result: Result, value: tuple, chance: tuple, samples: int) -> dict:
    """Chance and samples, and for hit rates the interval and what comes of it."""
    by_chance = 100 * result.number(*chance)
    if value[-1] != "hit_rate":
        return {"chance": by_chance, "samples": samples}
    found, share, error = result.pick(*value[:-1], kind=dict), result.number(*value), (*value[:-1], "standard_error")
    result.pick(*value[:-1], "pairs" if "pairs" in found else "queries", kind=int)
    if result.get_at(*error) is not None and result.finite_number(*error) and share in (0, 1):
        raise ValueError(f"{pointer(*error)}={result.get_at(*error)} must be 0 where {pointer(*value)} is {share:g}")
    interval = tuple(100 * bound for bound in hit_interval(found, samples))
    verdict = judge(interval, by_chance)
    return {
        "chance": by_chance,
        "samples": counted_samples(found, samples),
        "interval": interval,
        "remarks": () if verdict == VERDICTS[0] else (verdict,),
    }


def retrieval_tables(measurements: list[Measurement]) -> list[Table]:
    """Tables with a section for each task and length and a row for each rule."""
    tables = []
    for part, conditions, warnings in apart(measurements):
        sections: dict[tuple[str, float], list[Measurement]] = {}
        for measurement in part:
            sections.setdefault((measurement.item.split(" / ")[0], measurement.length), []).append(measurement)
        columns = [name for name in _COLUMNS if any(m.item.endswith(f" / {name}") for m in part)]
        laid = [(f"{task}, {length} tokens", _rows(found, columns)) for (task, length), found in sections.items()]
        table = Table(
            slug="retrieval",
            title="Retrieval by rule",
            caption="Per cent, higher is better, with 95 % intervals over samples and what random blocks find. Found: "
            "needles of which a block was retrieved, of those that full attention attends to and of all. Mass: full "
            "attention's weight on what was retrieved.",
            conditions=conditions,
            stub="Rule",
            columns=tuple(map(Column, columns)),
            sections=tuple(Section(title, rows) for title, rows in laid),
            higher_is_better=True,
            warnings=tuple(warnings),
            verdicts=tuple(verdict for title, rows in laid for verdict in _verdict(title, rows)),
        )
        tables.append(table)
    return numbered(tables)


def _rows(found: list[Measurement], columns: list[str]) -> tuple[Row, ...]:
    names = name_subjects(measurement.subject for measurement in found)
    cell_of = {(m.subject, m.item.partition(" / ")[2]): Cell(m) for m in found}
    rows = []
    # In the order in which they were measured, which is that of the file.
    for subject in dict.fromkeys(measurement.subject for measurement in found):
        rule = dict(subject.facts)["rule"]
        detail = names[subject].detail.replace(f", rule {rule}", "")
        cells = tuple(cell_of.get((subject, column), Cell(None)) for column in columns)
        rows.append(Row(rule, detail, cells, subject))
    return tuple(rows)


def _verdict(title: str, rows: tuple[Row, ...]) -> Iterator[str]:
    """What the first hit rate of each rule is beside chance."""
    several = len({row.subject.run for row in rows}) > 1
    judged, samples = [], []
    for row in rows:
        hits = [cell.measurement for cell in row.cells if cell.measurement is not None and cell.measurement.interval]
        if hits:
            name = f"{row.label} ({row.detail})" if several else row.label
            judged.append((name, judge(hits[0].interval, hits[0].chance)))
            samples.append(hits[0].samples)
    if judged:
        yield f"{title}: {in_words(judged, min(samples))}"
