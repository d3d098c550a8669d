# SPDX-License-Identifier: Apache-2.0
"""The numbers, marks and notes of tables, against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from hylora_eval.report.collect import collect
from hylora_eval.report.thesis_tables import lay_tables
from hylora_eval.ruler.tasks import ALL_TASKS, GROUPS
from tests.eval.report import made


@pytest.fixture
def tables(tmp_path):
    """A function from records by name to tables by slug."""

    def build(**records):
        paths = [made.write(tmp_path, f"{name}.json", record) for name, record in records.items()]
        return {table.slug: table for table in lay_tables(collect(paths))}

    return build


def texts(table, section=0):
    return {row.label: [cell.text for cell in row.cells] for row in table.sections[section].rows}


def best(table, section=0):
    """(row's label, column's label) of the marked cells."""
    return {
        (row.label, column.label)
        for row in table.sections[section].rows
        for column, cell in zip(table.columns, row.cells, strict=True)
        if cell.best
    }


def test_perplexity_has_the_shape_of_table_6_1(tables):
    table = tables(
        none=made.perplexity({2048: 10.721, 8192: 14.99}, run="base/model", trained=None),
        se=made.perplexity({2048: 10.99, 8192: 10.449}, errors={8192: 0.125}),
        sw=made.perplexity({8192: 10.8, 16384: 244.3249}, run="out/sw", trained="sw_attn", evaluated="sw_attn"),
    )["perplexity"]
    assert [column.label for column in table.columns] == ["2048", "8192", "16384"]
    assert texts(table) == {
        "Non-fine-tuned → Full-Attn": ["10.72", "14.99", "—"],
        "SW-Attn → SW-Attn": ["—", "10.80", "244.32"],
        "SE-Attn → Full-Attn": ["10.99", "10.45", "—"],
    }
    assert best(table) == {("Non-fine-tuned → Full-Attn", "2048"), ("SE-Attn → Full-Attn", "8192")}
    cell = table.sections[0].rows[-1].cells[1]
    assert cell.error_text == "± 0.12"
    assert str(cell.measurement.places[0]).endswith("se.json: results[1].perplexity")


def test_rows_come_in_the_order_of_the_thesis(tables):
    kinds = {"e": "se_attn", "d": "s2_attn", "c": "sw_attn", "b": "sdpa", "a": None}
    records = {
        name: made.perplexity({8: index + 1.0}, run=f"out/{name}" if kind else "base/model", trained=kind)
        for index, (name, kind) in enumerate(kinds.items())
    }
    rows = tables(**records)["perplexity"].sections[0].rows
    assert [row.subject.trained for row in rows] == ["Non-fine-tuned", "Full-Attn", "SW-Attn", "S²-Attn", "SE-Attn"]


def test_values_that_look_alike_are_marked_alike(tables):
    records = {
        name: made.perplexity({8: value}, run=f"out/{name}")
        for name, value in {"a": 10.004, "b": 9.9961, "c": 10.01}.items()
    }
    cells = [row.cells[0] for row in tables(**records)["perplexity"].sections[0].rows]
    assert [(cell.text, cell.best) for cell in cells] == [("10.00", True), ("10.00", True), ("10.01", False)]


def test_nothing_is_best_where_nothing_is_worse(tables):
    one = {"a": made.perplexity({8: 10.0}, run="out/a"), "b": made.perplexity({8: 10.0, 16: 9.0}, run="out/b")}
    assert best(tables(**one)["perplexity"]) == set()


def test_values_that_are_not_finite_are_shown_and_never_best(tables):
    table = tables(
        a=made.perplexity({8: math.inf}, run="out/a", trained="sw_attn"),
        b=made.perplexity({8: math.nan}, run="out/b", trained="s2_attn"),
        c=made.perplexity({8: 3.0}, run="out/c"),
        d=made.perplexity({8: 4.0e7}, run="out/d", trained="sdpa"),
    )["perplexity"]
    assert [text for (text,) in texts(table).values()] == ["4.00e+07", "∞", "NaN", "3.00"]
    assert best(table) == {("SE-Attn → Full-Attn", "8")}


def test_an_error_that_would_round_away_keeps_a_figure(tables):
    table = tables(a=made.perplexity({8: 10.0, 16: 9.0}, errors={8: 0.0031, 16: 0.0}))["perplexity"]
    assert [cell.error_text for cell in table.cells()] == ["± 0.003", "± 0.00"]


def test_other_texts_and_protocols_make_other_tables(tables):
    found = tables(
        a=made.perplexity({8: 10.0}, run="out/a"),
        b=made.perplexity({8: 9.0}, run="out/b"),
        c=made.perplexity({8: 1.0}, run="out/c", tokens="b" * 64),
        d=made.perplexity({8: 2.0}, run="out/d", mode="sliding", stride=4),
    )
    assert sorted(found) == ["perplexity-1", "perplexity-2", "perplexity-3"]
    assert [len(table.sections[0].rows) for table in found.values()] == [2, 1, 1]
    for table in found.values():
        assert table.warnings == (
            "Not to be compared with the other tables of this kind: they differ in evaluated text, mode, stride.",
        )


def test_scores_of_chats_stand_apart(tables):
    """Under another template as well, for the prompts are others."""
    records = {name: made.ruler(lambda *_: 50.0, run=f"out/{name}", tasks=("vt",), lengths=(8,)) for name in "abc"}
    records["b"]["settings"]["chat_template"] = "1" * 64
    records["c"]["settings"]["chat_template"] = "2" * 64
    found = [table for slug, table in tables(**records).items() if slug.startswith("ruler")]
    assert len(found) == 2 * 3 and all("they differ in chat template" in table.warnings[0] for table in found)


def test_different_base_models_are_pointed_out(tables):
    record = made.perplexity({8: 10.0}, run="out/b")
    record["model"]["base_model"] = "other/base"
    (warning,) = tables(a=made.perplexity({8: 9.0}, run="out/a"), b=record)["perplexity"].warnings
    assert "base/model, other/base" in warning


def test_what_tells_rows_apart_is_named(tables):
    records = {
        "a": made.perplexity({8: 1.0}, run="x/run", adapter=("hylora", 32, 64)),
        "b": made.perplexity({8: 2.0}, run="y/run", adapter=("hylora", 8, 16)),
        "c": made.perplexity({8: 3.0}, run="z", adapter=("hylora", 8, 32), trained="sw_attn"),
    }
    records["b"]["model"]["training_attention_options"]["top_k"] = 4
    rows = tables(**records)["perplexity"].sections[0].rows
    assert [(row.label, row.detail) for row in rows] == [
        ("SW-Attn → Full-Attn", "z, rank 8"),
        ("SE-Attn → Full-Attn", "y/run, rank 8, top_k 4"),
        ("SE-Attn → Full-Attn", "x/run, rank 32, top_k 8"),
    ]


def test_tasks_have_the_averages_of_table_6_2(tables):
    # Two rows of the thesis's table 6.2, with its averages.
    full = (69.53, 38.48, 67.30, 68.93, 75.08, 64.40, 85.24, 26.99, 19.75)
    swan = (69.82, 38.23, 67.35, 69.18, 75.30, 63.85, 84.61, 24.85, 15.41)

    def scores(row):
        values = dict(zip(made.TASKS, row, strict=True))
        return {task: value if made.TASKS[task] == "f1" else value / 100 for task, value in values.items()}

    errors = dict.fromkeys(made.SHORT, 0.01)
    table = tables(
        full=made.harness(scores(full), run="out/full", trained="sdpa", errors=errors),
        sw=made.harness(scores(swan), run="out/sw", trained="sw_attn"),
    )["tasks"]
    labels = ["ARC-E", "ARC-C", "Hella.", "LAMB.", "PIQA", "WG", "Avg.", "SWDE", "SQA", "SNQA", "Avg."]
    assert [column.label for column in table.columns] == labels
    first, second = texts(table).values()
    assert first == [*(f"{value:.2f}" for value in full[:6]), "63.95", *(f"{v:.2f}" for v in full[6:]), "43.99"]
    # The thesis averages before it rounds.
    assert (float(second[6]), float(second[-1])) == pytest.approx((63.95, 41.63), abs=0.0101)
    row = table.sections[0].rows[0]
    assert row.cells[0].measurement.error == pytest.approx(1.0)
    assert row.cells[6].measurement.error == pytest.approx(math.sqrt(6) / 6)
    assert row.cells[7].error_text == "" and row.cells[10].measurement.error is None
    assert len(row.cells[6].measurement.places) == 6
    assert [cell.best for cell in row.cells[6:]] == [False, True, True, True, True]


def test_an_average_needs_all_of_its_tasks(tables):
    table = tables(
        a=made.harness(dict.fromkeys(made.SHORT[:5], 0.5), run="out/a"),
        b=made.harness(dict.fromkeys(made.SHORT, 0.5), run="out/b"),
    )["tasks"]
    assert [row.cells[-1].text for row in table.sections[0].rows] == ["—", "50.00"]
    assert "SWDE" not in [column.label for column in table.columns]


def test_tasks_from_several_files_meet_in_one_row(tables):
    table = tables(
        a=made.harness(dict.fromkeys(made.SHORT[:2], 0.5)), b=made.harness(dict.fromkeys(made.SHORT[2:], 0.6))
    )["tasks"]
    (row,) = table.sections[0].rows
    assert row.cells[-1].text == "56.67"
    assert {place.source.path.name for place in row.cells[-1].measurement.places} == {"a.json", "b.json"}


def test_other_settings_of_a_task_are_noted_and_never_best(tables):
    records = {
        name: made.harness(dict.fromkeys(made.SHORT, value), run=name) for name, value in (("a", 0.4), ("b", 0.5))
    }
    records["c"] = made.harness(
        dict.fromkeys(made.SHORT, 0.9), run="c", shots={"arc_challenge": 25}, samples={"piqa": 10}
    )
    table = tables(**records)["tasks"]
    rows = {row.subject.run: row for row in table.sections[0].rows}
    marked = {column.label for column, cell in zip(table.columns, rows["c"].cells, strict=True) if not cell.comparable}
    assert marked == {"ARC-C", "PIQA", "Avg."}
    assert [cell.best for cell in rows["b"].cells] == [False, True, False, False, True, False, True]
    assert [cell.best for cell in rows["c"].cells] == [True, False, True, True, False, True, False]
    assert table.notes[0] == "examples in the prompt: 25, where others have 0; not compared with them"
    assert any(note.startswith("samples: 10, where others have 100") for note in table.notes)


def test_other_tasks_are_kept_by_direction(tables):
    record = made.harness({"mmlu": 0.3})
    record["results"]["wikitext"] = {"word_perplexity,none": 12.5, "word_perplexity_stderr,none": "N/A", "alias": "w"}
    record["higher_is_better"]["wikitext"] = {"word_perplexity": False}
    found = tables(a=record)
    assert found["other-tasks-1"].higher_is_better and texts(found["other-tasks-1"])["SE-Attn → Full-Attn"] == [
        "0.300"
    ]
    assert found["other-tasks-2"].columns[0].label == "wikitext (word_perplexity)"
    assert found["other-tasks-2"].higher_is_better is False


def test_ruler_groups_are_means_of_their_tasks(tables):
    place = {task: index for index, task in enumerate(ALL_TASKS)}
    table = tables(
        a=made.ruler(lambda task, length: place[task] + (length == 8192), error=3.0, run="out/a"),
        b=made.ruler(lambda task, length: 5.0, run="out/b"),
    )["ruler"]
    assert [section.title for section in table.sections] == [*GROUPS, "Average"]
    expected = {"NIAH-S": 1.0, "NIAH-M": 4.0, "NIAH-M-QV": 6.5, "VT": 8.0, "CF-WE": 9.5, "Average": 5.0}
    for section in table.sections:
        cells = section.rows[0].cells
        assert cells[0].measurement.value == pytest.approx(expected[section.title])
        assert cells[1].measurement.value == pytest.approx(expected[section.title] + 1)
        members = len(GROUPS.get(section.title, ALL_TASKS))
        assert cells[0].measurement.error == pytest.approx(3.0 / math.sqrt(members))
        assert len(cells[0].measurement.places) == members
    # Best is marked within a group, where more than chance: 5.0 beats 1.0 of 300 samples, and not 4.0.
    assert [section.rows[1].cells[0].best for section in table.sections] == [True, *[False] * 5]


def test_no_score_is_without_an_interval_and_few_samples_are_said_to_tell_nothing(tables):
    found = tables(a=made.ruler(lambda task, length: 0.0, samples=3, error=0.0, lengths=(8,)))
    assert {cell.error_text for cell in found["ruler-tasks"].cells()} == {"[0, 56]"}
    groups = {section.title: section.rows[0].cells[0].error_text for section in found["ruler"].sections}
    assert groups["VT"] == "[0, 56]" and groups["CF-WE"] == "[0, 39]" and groups["Average"] == "[0, 10]"
    for name in ("ruler", "ruler-tasks"):
        assert "With 3 samples even 0 and 100 % cannot be told apart." in found[name].verdicts[0]


def test_rules_stand_beside_chance_with_a_verdict(tables):
    rates = {"min_max": 0.9, "published": 0.11, "worse": 0.02}
    table = tables(a=made.retrieval(rates, samples=60))["retrieval"]
    assert [column.label for column in table.columns] == ["found, of all", "mass"]
    assert [row.label for row in table.sections[0].rows] == [f"{rule}, blocks of 16" for rule in rates]
    cells = [row.cells[0] for row in table.sections[0].rows]
    assert [cell.text for cell in cells] == ["90.0", "11.0", "2.0"]
    assert all(cell.error_text.endswith("] (chance 10.0)") for cell in cells) and cells[0].best
    low, high = cells[0].measurement.interval
    assert 80 < low < 90 < high < 95
    assert [[table.notes[note] for note in cell.notes] for cell in cells] == [
        [], ["not to be told from chance"], ["below chance"],
    ]  # fmt: skip
    assert table.verdicts == (
        "facts, 512 tokens: Above chance: min_max, blocks of 16. Not to be told from chance: published, blocks of 16. "
        "Below chance: worse, blocks of 16. By 95 % intervals over 60 samples.",
    )


def test_a_verdict_is_on_the_needles_that_full_attention_finds(tables):
    found = tables(a=made.retrieval({"min_max": 0.0}, attended={"min_max": 1.0}, error=0.0))["retrieval"]
    texts = [cell.error_text for cell in found.sections[0].rows[0].cells]
    assert texts == ["[84, 100] (chance 20.0)", "[0, 16] (chance 10.0)", "(chance 2.0)"]
    assert "Above chance: min_max" in found.verdicts[0]
    # By one sample, nothing can be said.
    found = tables(b=made.retrieval({"min_max": 0.5}, samples=1, error=None))["retrieval"]
    assert "Not to be told from chance: min_max, blocks of 16. By 95 % intervals over 1 sample." in found.verdicts[0]


def test_rules_of_several_models_and_of_other_text_are_kept_apart(tables):
    both = tables(a=made.retrieval({"mean": 0.9}), b=made.retrieval({"mean": 0.8}, run="out/b"))["retrieval"]
    assert [row.detail for row in both.sections[0].rows] == ["se", "b"]
    assert "mean, blocks of 16 (se); mean, blocks of 16 (b)" in both.verdicts[0]
    other = tables(c=made.retrieval({"mean": 0.9}), d=made.retrieval({"mean": 0.8}, tokens="b" * 64))
    assert "they differ in evaluated text" in other["retrieval-1"].warnings[0]


def test_perplexities_have_intervals_where_results_do_and_are_warned_of(tables):
    record = made.perplexity({8: 10.0, 16: 9.0}, errors={8: 0.5, 16: 0.5})
    more = {"low": 8.66, "high": 11.55, "documents": 3, "largest_document": 0.68, "mode": "chunks"}
    record["results"][0] |= more
    first, second = tables(a=record)["perplexity"].sections[0].rows[0].cells
    assert (first.error_text, second.error_text) == ("[8.7, 11.6]", "± 0.50")
    assert len(first.notes) == 2 and not second.notes


def test_a_group_without_one_of_its_tasks_is_left_out(tables):
    found = tables(a=made.ruler(lambda task, length: 50.0, tasks=ALL_TASKS[:4], lengths=(4096,)))
    assert [section.title for section in found["ruler"].sections] == ["NIAH-S"]
    assert [section.title for section in found["ruler-tasks"].sections] == list(ALL_TASKS[:4])


@pytest.mark.parametrize("other", [{"seed": 1}, {"mode": "strict"}, {"samples": 50}], ids=str)
def test_ruler_samples_that_differ_are_kept_apart(tables, other):
    found = tables(
        a=made.ruler(lambda task, length: 50.0, run="out/a"),
        b=made.ruler(lambda task, length: 60.0, run="out/b", **other),
    )
    assert {"ruler-1", "ruler-2"} <= set(found)
    assert next(iter(other)) in found["ruler-1"].warnings[0]
    assert not any(cell.best for cell in found["ruler-1"].cells())


def test_other_prompts_than_the_others_are_noted(tables):
    records = {name: made.ruler(lambda t, n: 50.0, run=name, lengths=(8,)) for name in "ab"}
    records["c"] = made.ruler(lambda t, n: 60.0, run="c", lengths=(8,), prompts={"vt": "9" * 64})
    found = tables(**records)
    assert found["ruler"].notes == ("prompts that others lack; not compared with them",)
    marked = {s.title for s in found["ruler"].sections if any(not cell.comparable for r in s.rows for cell in r.cells)}
    assert marked == {"VT", "Average"}
    assert [section.rows[2].cells[0].best for section in found["ruler"].sections] == [
        True,
        True,
        True,
        False,
        True,
        False,
    ]


def test_variants_and_ranks_have_the_shape_of_table_6_6(tables):
    adapters = {
        "l": ("lora", 32, 64), "p": ("longlora", 32, 64), "h": ("hylora", 32, 64), "r8": ("hylora", 8, 16),
        "r64": ("hylora", 64, 128),
    }  # fmt: skip
    values = {"l": 10.77, "p": 10.98, "h": 10.99, "r8": 11.0, "r64": 10.99}
    records = {
        n: made.perplexity({2048: values[n], 8192: 9.0}, run=f"out/{n}", adapter=a) for n, a in adapters.items()
    }
    # Another training attention is no part of the comparison.
    records["sw"] = made.perplexity({2048: 1.0, 8192: 1.0}, run="sw", trained="sw_attn", adapter=("hylora", 16, 32))
    table = tables(**records)["lora-perplexity"]
    assert [(column.group, column.label) for column in table.columns] == [
        ("Variant (rank 32)", "LoRA"), ("Variant (rank 32)", "LoRA+"), ("Variant (rank 32)", "HyLoRA"),
        ("Rank (HyLoRA)", "8"), ("Rank (HyLoRA)", "32"), ("Rank (HyLoRA)", "64"),
    ]  # fmt: skip
    first, second = table.sections[0].rows
    assert first.label == "2048"
    assert [cell.text for cell in first.cells] == ["10.77", "10.98", "10.99", "11.00", "10.99", "10.99"]
    assert [cell.best for cell in first.cells] == [True, False, False, False, True, True]
    assert not any(cell.best for cell in second.cells)


def test_ranks_are_compared_by_rulers_average_too(tables):
    scores = {8: 20.0, 32: 30.0}
    records = {
        f"r{rank}": made.ruler(lambda task, length, v=value: v, run=f"out/{rank}", adapter=("hylora", rank, 2 * rank))
        for rank, value in scores.items()
    }
    table = tables(**records)["lora-ruler"]
    assert [column.group for column in table.columns] == ["Rank (HyLoRA)"] * 2
    assert [cell.text for cell in table.sections[0].rows[0].cells] == ["20.0", "30.0"]
    assert [cell.best for cell in table.sections[0].rows[0].cells] == [False, True]


def test_runtime_by_work_and_length(tables):
    times = {("forward", "full", 64): 0.002, ("forward", "se_attn", 64): 0.001, ("decode", "full", 64): 0.5}
    times[("forward", "full", 128)] = 1.0
    found = tables(a=made.runtime(times, failed={("forward", "full", 128)}))
    table = found["time"]
    assert [section.title for section in table.sections] == ["forward", "decode"]
    assert texts(table) == {"Full-Attn": ["2.00", "out of memory"], "SE-Attn": ["1.00", "—"]}
    assert best(table) == {("SE-Attn", "64")}
    assert table.sections[0].rows[0].cells[0].error_text == "(1.80 to 2.40)"
    assert texts(found["memory"])["Full-Attn"] == ["64.0", "out of memory"]


def test_times_of_different_runs_are_kept_apart(tables):
    found = tables(
        a=made.runtime({("forward", "full", 64): 1.0}), b=made.runtime({("forward", "full", 64): 2.0}, run="out/b")
    )
    assert {"time-1", "time-2"} <= set(found)
    assert "timed run" in found["time-1"].warnings[0]


def test_the_newest_measurement_counts_and_the_older_is_noted(tables):
    table = tables(
        new=made.perplexity({8: 10.0, 16: 9.0}),
        old=made.perplexity({8: 11.0, 16: 9.0}, created="2025-01-01T00:00:00+00:00"),
    )["perplexity"]
    first, second = table.cells()
    assert (first.text, second.text) == ("10.00", "9.00")
    assert table.notes == ("[2] has an earlier measurement with another value; the newest is shown",)
    assert (first.notes, second.notes) == ((0,), ())
    assert first.comparable
