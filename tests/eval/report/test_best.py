# SPDX-License-Identifier: Apache-2.0
"""What is marked as best: only what chance would not have put first."""

from __future__ import annotations

import math
import random

import pytest

from hylora_eval.report.clear import is_clear
from hylora_eval.report.finishing import _with_best
from hylora_eval.report.measurements import Measurement, Subject
from hylora_eval.report.tables import Cell
from tests.eval.report import made
from tests.eval.report.laid import tables_of


def measured(value, kind="task", **options):
    options = {"error": None, **options}
    return Measurement(kind, Subject("run", "base", "", ""), "", None, value, places=(), **options)


def marks(values, higher=True, **options):
    cells = [Cell(measured(value, **options)) for value in values]
    return [cell.best for cell in _with_best(cells, higher)]


@pytest.mark.parametrize(
    "one, other, clear",
    [
        (measured(1.0), measured(1.1), True),
        (measured(1.0, error=0.05), measured(1.1), True),
        (measured(1.0, error=0.06), measured(1.1), False),
        (measured(1.0, interval=(0.5, 1.5)), measured(2.0, interval=(1.4, 2.6)), False),
        (measured(1.0, interval=(0.5, 1.5)), measured(2.0, interval=(1.6, 2.6)), True),
        (measured(1.0, kind="time", spread=(0.9, 1.4)), measured(1.3, kind="time", spread=(1.2, 1.5)), False),
        # Over seeds, errors are deviations, and not 1.96 of them count.
        (measured(1.0, kind="per cent", error=0.04), measured(1.1, kind="per cent", error=0.04), True),
        (measured(1.0, kind="per cent", error=0.06), measured(1.1, kind="per cent", error=0.06), False),
    ],
)
def test_numbers_are_clearly_others_where_their_ranges_do_not_meet(one, other, clear):
    assert is_clear(one, other) is is_clear(other, one) is clear


def test_the_best_are_marked_with_all_that_are_not_clearly_worse():
    assert marks([3.0, 2.0, 1.0]) == [True, False, False]
    assert marks([3.0, 2.0, 1.0], higher=False) == [False, False, True]
    assert marks([3.0, 3.001, 1.0]) == [True, True, False]
    assert marks([3.0, 2.9, 1.0], error=0.1) == [True, True, False]
    # Nothing is best where nothing is clearly worse.
    assert marks([3.0, 3.0]) == [False, False]
    assert marks([3.0, 2.9, 2.8], error=0.1) == [False] * 3
    assert marks([]) == [] and marks([1.0]) == [False]
    assert marks([float("inf"), 2.0, 3.0], higher=False) == [False, True, False]


def test_each_cell_knows_from_where_others_are_clearly_worse():
    """As a comparison of all with all says, where errors are alike."""
    values = [round(random.Random(0).gauss(0, 1), 2) for _ in range(40)]
    cells = _with_best([Cell(measured(value, error=0.3)) for value in values], higher=True)
    for cell in cells:
        value = cell.measurement.value
        worse = [other for other in values if other < value and is_clear(cell.measurement, measured(other, error=0.3))]
        assert cell.worse_from == (max(worse) if worse else None)


def documents(losses, counts, length=64, **options):
    """A perplexity with its documents and an interval that is too wide to tell anything."""
    record = made.perplexity({length: 1.0}, **options)
    value = math.exp(sum(losses) / sum(counts))
    record["results"][0] |= {
        "perplexity": value, "low": value / 2, "high": 2 * value, "mode": "chunks", "documents": len(counts),
        "largest_document": max(counts) / sum(counts), "document_nll": losses, "document_tokens": counts,
    }  # fmt: skip
    return record


def test_the_same_documents_decide_where_intervals_meet(tmp_path):
    """Documents that are hard for one are hard for both: the small difference is the same in nearly all."""
    rng = random.Random(1)
    tokens = [rng.randrange(50, 60) for _ in range(20)]
    hard = [count * rng.gauss(3, 1) for count in tokens]
    near = [loss + count * rng.gauss(0.02, 0.005) for loss, count in zip(hard, tokens, strict=True)]
    noise = [loss + count * rng.gauss(0.0, 0.1) for loss, count in zip(hard, tokens, strict=True)]

    def best(losses, data="a"):
        records = [documents(hard, tokens), documents(losses, tokens, run="out/z", tokens=data * 64)]
        return [[cell.best for cell in table.cells()] for table in tables_of(tmp_path, *records).values()]

    assert best(near) == [[True, False]]
    assert best(noise) == [[False, False]]
    # Other documents stand in another table.
    assert best(near, data="b") == [[False], [False]]


def samples(scores, prompts, run):
    record = made.ruler(lambda task, length: 1.0, lengths=(64,), tasks=("vt",), samples=len(scores), run=run)
    record["results"][0] |= {"score": sum(scores) / len(scores), "scores": scores, "prompts_sha256": prompts}
    return record


def test_the_same_samples_decide_where_intervals_meet(tmp_path):
    """One has seven samples right that the other has not, and never the other way round: McNemar's p is 2 / 2^7."""
    one, other = [100.0] * 17 + [0.0] * 13, [100.0] * 10 + [0.0] * 20
    for prompts, marked in (("fff", [True, False]), ("ggg", [False, False])):
        table = tables_of(tmp_path, samples(one, "fff", "out/a"), samples(other, prompts, "out/b"))["ruler-tasks"]
        assert [cell.best for cell in table.cells()] == marked
