# SPDX-License-Identifier: Apache-2.0
"""Differences to a baseline, over documents and samples that both results keep."""

from __future__ import annotations

import math
from functools import partial
from statistics import fmean

import pytest

from hylora_eval.report.collect import collect
from hylora_eval.report.thesis_tables import lay_tables
from hylora_eval.ruler.tasks import GROUPS
from tests import command_line
from tests.eval.report import made
from tests.eval.report.laid import chart_of

LENGTHS = (64, 128)
TOKENS = [100, 150, 120, 90]
LOSSES = {"full": [200.0, 450.0, 240.0, 90.0], "se": [204.0, 459.0, 245.0, 93.0], "sw": [230.0, 430.0, 300.0, 80.0]}


def perplexities(run, losses=None, data="a", **options):
    losses = losses or LOSSES[run]
    value = math.exp(sum(losses) / sum(TOKENS))
    record = made.perplexity(dict.fromkeys(LENGTHS, value), run=f"out/{run}", tokens=data * 64, **options)
    for row in record["results"]:
        row |= {"low": value / 2, "high": value * 2, "mode": "chunks", "documents": 4, "largest_document": 0.3}
        row |= {"document_nll": losses, "document_tokens": TOKENS}
    return record


def tables_with(tmp_path, baseline, *records):
    for number, record in enumerate(records):
        made.write(tmp_path, f"{number}.json", record)
    return {table.slug: table for table in lay_tables(collect([tmp_path]), baseline)}


def test_perplexities_differ_by_what_the_losses_of_their_documents_do(tmp_path):
    table = tables_with(tmp_path, "full", *map(perplexities, LOSSES))["perplexity-difference"]
    assert table.title.endswith(": difference to full") and "less SE-Attn → Full-Attn, full," in table.caption
    rows = {row.detail: row.cells for row in table.sections[0].rows}
    assert set(rows) == {"se", "sw"}
    for run, cells in rows.items():
        nats = (sum(LOSSES[run]) - sum(LOSSES["full"])) / sum(TOKENS)
        # The jackknife, by hand: the difference without each document.
        without = [
            (sum(LOSSES[run]) - sum(LOSSES["full"]) - a + b) / (sum(TOKENS) - count)
            for a, b, count in zip(LOSSES[run], LOSSES["full"], TOKENS, strict=True)
        ]
        error = math.sqrt(3 / 4 * sum((one - fmean(without)) ** 2 for one in without))
        low, high = cells[0].measurement.interval
        assert cells[0].measurement.value == pytest.approx(100 * (math.exp(nats) - 1))
        reach = math.log1p(high / 100) - nats
        assert nats - math.log1p(low / 100) == pytest.approx(reach) and 2.5 < reach / error < 4.5
        assert [str(place).split(": ")[1] for place in cells[1].measurement.places] == ["results[1].perplexity"] * 2
    assert rows["se"][0].text.startswith("+") and rows["se"][0].measurement.interval[0] > 0
    assert rows["sw"][0].measurement.interval[0] < 0 < rows["sw"][0].measurement.interval[1]
    assert table.verdicts == ("Of 4 differences, 2 have an interval that leaves out 0.",)
    assert not any(cell.best for cell in table.cells()) and len(chart_of(table)["panels"][0]["series"]) == 2


def test_what_is_not_paired_says_why(tmp_path):
    bare = perplexities("se")
    for row in bare["results"]:
        del row["document_nll"], row["document_tokens"]
    table = tables_with(tmp_path, "out/full", perplexities("full"), bare)["perplexity-difference"]
    (note,) = table.notes
    assert note.startswith("not paired: ") and "no sum of each document" in note
    low, high = next(iter(table.cells())).measurement.interval
    assert low < -40 and high > 80


def test_a_table_without_the_baseline_has_no_differences(tmp_path):
    records = perplexities("full"), perplexities("se"), perplexities("sw", data="b")
    assert list(tables_with(tmp_path, "full", *records)) == ["perplexity-1", "perplexity-1-difference", "perplexity-2"]
    assert list(tables_with(tmp_path, None, *records)) == ["perplexity-1", "perplexity-2"]
    with pytest.raises(ValueError, match="--baseline 'ful' is no run .* there are: out/full, out/se, out/sw"):
        tables_with(tmp_path, "ful", *records)


def test_groups_differ_by_the_mean_of_their_tasks(tmp_path):
    tasks = GROUPS["NIAH-M-QV"]

    def scores(run, *of_tasks):
        record = made.ruler(
            lambda task, length: fmean(of_tasks[tasks.index(task)]), (64,), tasks, samples=4, run=f"out/{run}"
        )
        for row, own in zip(record["results"], of_tasks, strict=True):
            row["scores"] = own
        return record

    tables = tables_with(
        tmp_path,
        "full",
        scores("full", [50.0, 50.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]),
        scores("se", [100.0, 50.0, 50.0, 0.0], [100.0, 0.0, 0.0, 0.0]),
    )
    (cell,) = tables["ruler-difference"].cells()
    assert (cell.text, cell.measurement.samples) == ("+25.0", 8)
    assert [cell.text for cell in tables["ruler-tasks-difference"].cells()] == ["+25.0", "+25.0"]


def test_the_command_takes_a_baseline(tmp_path):
    for run in LOSSES:
        made.write(tmp_path, f"in/{run}.json", perplexities(run))
    run = partial(command_line.run, "eval", "report", tmp_path / "in", "--output", tmp_path / "out")
    refused = run("--baseline", "nowhere")
    assert isinstance(refused.exception, ValueError) and not (tmp_path / "out").exists()
    done = run("--baseline", "full")
    assert done.exit_code == 0 and "difference to full: 4 numbers" in done.output
    assert (tmp_path / "out/csv/perplexity-difference.csv").is_file()
