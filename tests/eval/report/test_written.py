# SPDX-License-Identifier: Apache-2.0
"""What is written: the page, Markdown and CSV, and the command that writes them."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from functools import partial
from html import escape
from pathlib import Path

import pytest

from hylora_eval.report.collect import collect
from hylora_eval.report.page import page
from hylora_eval.report.thesis_tables import lay_tables
from hylora_eval.report.write import _csv, write_report
from tests import command_line
from tests.eval.report import made
from tests.eval.report.pages import Checked, data_of


@pytest.fixture
def results(tmp_path):
    """Results of every kind, with a name that HTML must escape."""
    folder = tmp_path / "results"
    for index, (name, trained) in enumerate({"base/model": None, "a<b>&c": "se_attn", "sw": "sw_attn"}.items()):
        options = {"run": name, "trained": trained, "adapter": ("hylora", 8 + index, 16)}
        options |= {} if trained else {"adapter": None}
        made.write(
            folder, f"{index}/ppl.json", made.perplexity({64: 9.0 + index, 128: 8.0}, errors={64: 0.1}, **options)
        )
        made.write(folder, f"{index}/tasks.json", made.harness(dict.fromkeys(made.TASKS, 0.1 * index), **options))
        made.write(folder, f"{index}/ruler.json", made.ruler(lambda t, n, i=index: 9.0 * i, error=1.0, **options))
    made.write(
        folder, "time.json", made.runtime({("forward", n, s): 1e-3 for n in ("full", "se_attn") for s in (8, 16)})
    )
    made.write(folder, "other.json", {"a": 1})
    return folder


@pytest.fixture
def written(tmp_path, results):
    output = tmp_path / "report"
    tables = write_report(output, collect([results]), "A <title> & more")
    return output, tables


def test_the_page_is_well_formed_and_needs_nothing_else(written):
    text = (written[0] / "report.html").read_text(encoding="utf-8")
    read = Checked(text)
    assert len(read.ids) == len(set(read.ids))
    assert not re.search(r"https?:|url\(|@import|src=|fetch\(|import\(", text)
    for url in read.urls:
        assert url.removeprefix("#") in read.ids if url.startswith("#") else (written[0] / url).is_file()


def test_every_number_of_the_page_leads_to_its_file(written):
    output, tables = written
    read = Checked((output / "report.html").read_text(encoding="utf-8"))
    found = [(cell["text"], cell["links"][0]) for cell in read.cells if cell["links"] and "title" in cell["links"][0]]
    numbers = [cell for table in tables for cell in table.cells() if cell.measurement is not None]
    assert len(found) == len(numbers) > 100
    for (text, link), cell in zip(found, numbers, strict=True):
        assert text.startswith(cell.text)
        assert link["href"] == f"#source-{cell.measurement.places[0].source.number}"
        assert link["title"].split("\n") == [str(place) for place in cell.measurement.places]


def test_a_place_leads_to_the_number(written):
    """Follow the path of each plain number into the JSON it names."""
    for table in written[1]:
        if table.slug == "perplexity":
            for cell in table.cells():
                place = cell.measurement.places[0]
                index, key = re.fullmatch(r"results\[(\d+)\]\.(\w+)", place.pointer).groups()
                value = json.loads(place.source.path.read_text())["results"][int(index)][key]
                assert value == cell.measurement.value


def test_charts_hold_the_numbers_of_the_tables(written):
    output, tables = written
    data = data_of((output / "report.html").read_text(encoding="utf-8"))
    charts, styles = data["charts"], [subject["style"] for subject in data["subjects"]]
    slugs = {table.slug: table for table in tables}
    assert {chart["slug"] for chart in charts} == {
        "perplexity", "tasks", "ruler", "time", "memory",
    }  # fmt: skip
    for chart in charts:
        drawn = [p for panel in chart["panels"] for series in panel["series"] for p in series["points"]]
        expected = [cell for cell in slugs[chart["slug"]].cells() if cell.measurement is not None]
        assert sorted(point["y"] for point in drawn) == sorted(cell.measurement.value for cell in expected)
        assert all(point["places"] for point in drawn)
        for panel in chart["panels"]:
            looks = [tuple(styles[series["subject"]].values()) for series in panel["series"]]
            assert len(looks) == len(set(looks))
    (perplexity,) = [chart for chart in charts if chart["slug"] == "perplexity"]
    point = perplexity["panels"][0]["series"][0]["points"][0]
    assert (point["x"], point["y"], point["low"], point["high"]) == (64, 9.0, 8.9, 9.1)


def test_a_run_has_one_look_in_all_charts(tmp_path):
    """Also where its variant or rank is the column of a table, and unlike that of any other."""
    for variant in ("lora", "hylora"):
        for rank in (4, 8):
            options = {"run": f"out/{variant}{rank}", "adapter": (variant, rank, 2 * rank)}
            made.write(tmp_path, f"{variant}{rank}.json", made.perplexity({64: 9.0, 128: 8.0}, **options))
    collection = collect([tmp_path])
    data = data_of(page("t", lay_tables(collection), collection, tmp_path))
    assert [chart["slug"] for chart in data["charts"]] == ["perplexity", "lora-perplexity"]
    assert len({tuple(subject["style"].values()) for subject in data["subjects"]}) == 4
    for chart in data["charts"]:
        for panel in chart["panels"]:
            for series in panel["series"]:
                subject = data["subjects"][series["subject"]]
                variant, rank = series["name"].split(", ")[-2:]
                assert subject["run"] == f"out/{variant.lower()}{rank.removeprefix('rank ')}"
                assert variant.lower() in subject["words"] and rank in subject["words"]


def test_values_that_are_not_finite_stay_out_of_charts(tmp_path):
    record = made.perplexity({8: float("inf"), 16: 3.0, 32: 4.0}, errors={16: float("nan")})
    collection = collect([made.write(tmp_path, "a.json", record)])
    text = page("t", lay_tables(collection), collection, tmp_path)
    charts = data_of(text)["charts"]
    assert [point["x"] for point in charts[0]["panels"][0]["series"][0]["points"]] == [16, 32]
    assert ">∞<" in text


def test_what_the_numbers_tell_is_said_in_both_pages(written):
    output, tables = written
    verdicts = [verdict for table in tables for verdict in table.verdicts]
    assert any("a score near 50 is known to" in verdict for verdict in verdicts)
    for verdict in verdicts:
        assert f'<p class="verdict">{escape(verdict)}</p>' in (output / "report.html").read_text(encoding="utf-8")
        assert verdict in (output / "report.md").read_text(encoding="utf-8")


def test_the_best_are_marked_for_eyes_and_screen_readers(written):
    read = Checked((written[0] / "report.html").read_text(encoding="utf-8"))
    marked = [cell["text"] for cell in read.cells if cell["attributes"].get("class") == "best"]
    assert any(text.startswith("9.00 (best)") for text in marked)


def test_csv_holds_what_the_tables_hold(written):
    output, tables = written
    for table in tables:
        with (output / "csv" / f"{table.slug}.csv").open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        cells = [cell for cell in table.cells() if cell.measurement is not None]
        assert len(lines) == len(cells)
        for line, cell in zip(lines, cells, strict=True):
            measurement = cell.measurement
            assert float(line["value"]) == measurement.value
            assert line["standard_error"] == ("" if measurement.error is None else repr(measurement.error))
            assert line["best"] == str(int(cell.best))
            assert line["training_attention"] == measurement.subject.trained
            assert line["pointer"].split("; ") == [place.pointer for place in measurement.places]
            assert line["file"].split("; ")[0] == str(measurement.places[0].source.path)
            assert line["sha256"].split("; ")[0] == measurement.places[0].source.sha256
    assert len(list(csv.reader((output / "csv/sources.csv").open(encoding="utf-8")))) == 11


def test_csv_holds_no_formula(tmp_path):
    record = made.harness({"bias": -0.5}, run="=HYPERLINK(1)")
    record["created"] = "@SUM(1)"
    write_report(tmp_path / "out", collect([made.write(tmp_path, "a.json", record)]))
    with (tmp_path / "out/csv/other-tasks.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["run"], line["value"]) for line in lines] == [("'=HYPERLINK(1)", "-0.5")]
    with (tmp_path / "out/csv/sources.csv").open(newline="") as file:
        assert [line["created"] for line in csv.DictReader(file)] == ["'@SUM(1)"]
    cells = ["-1", "+2.5", "-1e-05", "-1+2", "+A1", "=1", "@a", "\t=1", "a=1", "", "—"]
    (read,) = csv.reader(io.StringIO(_csv(cells, [cells])).readlines()[1:])
    assert read == ["-1", "+2.5", "-1e-05", "'-1+2", "'+A1", "'=1", "'@a", "'\t=1", "a=1", "", "—"]


def test_a_report_starts_without_torch(tmp_path, results):
    script = (
        "import sys\nfrom pathlib import Path\nfrom hylora_eval.commands.report import report\n"
        f"report([Path({str(results)!r})], Path({str(tmp_path / 'report')!r}))\n"
        "assert not {'torch', 'transformers', 'peft', 'numpy', 'lm_eval'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=60)


def test_markdown_is_a_table_with_marks_errors_and_sources(written):
    text = (written[0] / "report.md").read_text(encoding="utf-8")
    head = "## Perplexity by context length"
    row = text[text.index(head) :].split("---: | --- |\n")[1].splitlines()[0]
    assert row == "| Non-fine-tuned → Full-Attn | model | **9.00** ± 0.10 | 8.00 | [2] |"
    assert "a&lt;b>&c" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert "other.json`: JSON, but no result" in text


run = partial(command_line.run, "eval", "report")


def test_a_task_that_is_alone_has_its_name(tmp_path):
    record = made.ruler(lambda task, length: 50.0, tasks=("qa_1",))
    write_report(tmp_path / "out", collect([made.write(tmp_path, "a.json", record)]))
    assert "| qa\\_1 | SE-Attn → Full-Attn |" in (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "<span>qa_1</span>" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_the_command_writes_a_report_and_replaces_it_only_when_asked(tmp_path, results):
    output = tmp_path / "out"
    first = run(results, "--output", output, "--title", "First")
    assert first.exit_code == 0, (first.output, first.exception)
    assert "10 result files" in first.output and "skipped" in first.output and "other.json" in first.output
    stale = output / "csv" / "stale.csv"
    stale.write_text("")
    again = run(results / "0", "--output", output)
    assert isinstance(again.exception, ValueError) and "--overwrite" in str(again.exception)
    assert "First" in (output / "report.md").read_text()
    replaced = run(results / "0", "--output", output, "--overwrite", "--title", "Second")
    assert replaced.exit_code == 0 and not stale.exists()
    assert "Second" in (output / "report.html").read_text()


def test_the_command_names_the_rules_of_a_verdict(tmp_path):
    record = made.retrieval({"min_max": 0.9, "published": 0.11})
    (tmp_path / "retrieval.json").write_text(json.dumps(record))
    printed = run(tmp_path / "retrieval.json", "--output", tmp_path / "out").output
    assert "Retrieval by rule: 4 numbers\n" in printed and "1 result file ->" in printed
    assert "  not to be told from chance: published, blocks of 16 (found, of all)\n" in printed


def test_the_command_never_touches_what_is_no_report(tmp_path, results):
    (tmp_path / "precious").mkdir()
    Path(tmp_path / "precious/notes.txt").write_text("mine")
    for arguments in (["--output", tmp_path / "precious", "--overwrite"], ["--output", results / "time.json"]):
        result = run(results, *arguments)
        assert isinstance(result.exception, ValueError) and str(arguments[1]) in str(result.exception)
    assert isinstance(run(tmp_path / "nowhere").exception, FileNotFoundError)


@pytest.fixture
def interrupted(tmp_path):
    """The points of a series whose third value is infinite and whose fifth was not measured."""
    record = made.perplexity({8: 5.0, 16: 4.0, 32: float("inf"), 64: 3.0, 256: 2.0, 512: 2.0})
    other = made.perplexity({128: 3.0}, run="out/other")
    collection = collect([made.write(tmp_path, "a.json", record), made.write(tmp_path, "b.json", other)])
    text = page("t", lay_tables(collection), collection, tmp_path)
    (series,) = [one for one in data_of(text)["charts"][0]["panels"][0]["series"] if len(one["points"]) > 1]
    return series


def test_a_point_after_a_missing_value_has_a_gap_before_it(interrupted):
    assert [(p["x"], p["gap"]) for p in interrupted["points"]] == [
        (8, False), (16, False), (64, True), (256, True), (512, False),
    ]  # fmt: skip
