# SPDX-License-Identifier: Apache-2.0
"""Needles by depth and context length: what is counted, and how it is drawn."""

from __future__ import annotations

import csv
import re

import pytest

from hylora_eval.report.collect import collect
from hylora_eval.report.heat_map import _contrast, shade
from hylora_eval.report.write import write_report
from hylora_eval.ruler.tasks import GROUPS
from tests.eval.report import made
from tests.eval.report.laid import tables_of, texts

TASK = "niah_single_1"


def ruler(scores, depths, lengths=(64,), tasks=(TASK,), **options):
    """The same samples at each length of each task."""
    record = made.ruler(lambda task, length: sum(scores) / len(scores), lengths, tasks, samples=len(scores), **options)
    for row in record["results"]:
        row |= {"scores": scores, "depths": depths}
    return record


def test_samples_count_where_their_needles_lie(tmp_path):
    """At both ends too; with several needles once in each band that holds one."""
    record = ruler([100.0, 0.0, 50.0, 100.0], [[0.0], [9.9], [5.0, 8.0, 95.0], [100.0]])
    table = tables_of(tmp_path, record)["needles"]
    cells = {label: cell for (_, label), row in texts(table).items() for cell in row.values()}
    assert cells == {
        "0 to 10": "50 n = 3",
        **{f"{low} to {low + 10}": "—" for low in range(10, 90, 10)},
        "90 to 100": "75 n = 2",
    }
    assert [section.title for section in table.sections] == [f"SE-Attn → Full-Attn, NIAH-S: {TASK}"]
    first = next(iter(table.cells()))
    assert first.measurement.samples == 3 and first.measurement.interval[0] < 20 < 80 < first.measurement.interval[1]


def test_tasks_of_a_group_are_counted_together_and_others_left_out(tmp_path):
    tasks = (*GROUPS["NIAH-S"], "vt", "qa_1")
    records = ruler([100.0, 0.0], [[15.0], [25.0]], (64, 128), tasks, run="out/a"), made.ruler(lambda *_: 1.0)
    table = tables_of(tmp_path, *records)["needles"]
    assert [section.title for section in table.sections] == ["SE-Attn → Full-Attn, NIAH-S"]
    rows = {label: row for (_, label), row in texts(table).items()}
    assert rows["10 to 20"] == {"64": "100 n = 3", "128": "100 n = 3"} and rows["20 to 30"]["64"] == "0 n = 3"


def test_needles_of_no_group_stand_by_themselves(tmp_path):
    table = tables_of(tmp_path, ruler([100.0], [[15.0]], tasks=("niah_implied_1", "niah_implied_4")))["needles"]
    titles = [section.title for section in table.sections]
    assert titles == [f"SE-Attn → Full-Attn, niah_implied_{needles}" for needles in (1, 4)]


def test_assignments_alone_have_no_map(tmp_path):
    assert "needles" not in tables_of(tmp_path, ruler([100.0], [[15.0, 30.0]], tasks=("vt",)))


def test_results_without_depths_have_no_map(tmp_path):
    assert "needles" not in tables_of(tmp_path, made.ruler(lambda *_: 50.0))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"depths": [[1.0]]}, "results[0].depths has 1 lists, not one for each of 2 samples"),
        ({"depths": [[1.0], [101.0]]}, "results[0].depths[1]=[101.0] must be depths from 0 to 100 per cent"),
        ({"depths": [[1.0], [float("nan")]]}, "results[0].depths[1]=[nan] must be depths from 0 to 100 per cent"),
        ({"depths": [[1.0], 2.0]}, "results[0].depths[1] is 2.0, not of type list"),
        ({"scores": [1.0]}, "results[0].scores has 1 numbers"),
    ],
)
def test_damaged_samples_are_named(tmp_path, change, words):
    made.write(tmp_path, "good.json", made.perplexity({8: 3.0}))
    record = ruler([100.0, 0.0], [[15.0], [25.0]])
    record["results"][0] |= change
    made.write(tmp_path, "bad.json", record)
    ((_, why),) = collect([tmp_path]).damaged
    assert words in why


def test_a_map_shows_numbers_and_samples_and_leaves_out_what_is_missing(tmp_path):
    record = ruler([100.0, 0.0], [[15.0], [25.0]])
    write_report(tmp_path / "out", collect([made.write(tmp_path, "a.json", record)]))
    text = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    (drawn,) = re.findall(r'<svg class="heat".*?</svg>', text, re.S)
    groups = re.findall(r"<g>.*?</g>", drawn, re.S)
    assert len(groups) == 10 and sum('class="missing"' in group and ">—<" in group for group in groups) == 8
    filled = [re.search(r"<title>(.*?)</title>.*?fill=\"(.*?)\"", group).groups() for group in groups[1:3]]
    assert filled == [
        ("Depth (%) 10 to 20, 64 tokens: 100, n = 1", shade(100)[0]),
        ("Depth (%) 20 to 30, 64 tokens: 0, n = 1", shade(0)[0]),
    ]
    assert ">n = 1</text>" in groups[1]
    markdown = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "| 10 to 20 | 100 n = 1 | [1] |" in markdown and "| 90 to 100 | — |  |" in markdown
    with (tmp_path / "out/csv/needles.csv").open(newline="") as file:
        assert [(line["row"], line["length"], line["value"], line["samples"]) for line in csv.DictReader(file)] == [
            ("10 to 20", "64", "100.0", "1"),
            ("20 to 30", "64", "0.0", "1"),
        ]


def test_what_is_written_on_a_colour_can_be_read():
    """By WCAG's contrast for small text; colours go from one end to the other without turning back."""

    def parts(color):
        return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))

    for value in range(101):
        ground, ink = map(parts, shade(value))
        assert _contrast(ground, ink) >= 4.5
    red = [parts(shade(value)[0])[0] - parts(shade(value)[0])[2] for value in range(101)]
    assert red == sorted(red, reverse=True) and shade(-5) == shade(0) and shade(120) == shade(100)
