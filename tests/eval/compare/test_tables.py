# SPDX-License-Identifier: Apache-2.0
"""Several runs against a baseline, and `hylora eval compare` as it is typed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from functools import partial

import pytest

from hylora_eval.compare import differences, holm
from hylora_eval.compare.runs import find_run, read_runs
from hylora_eval.compare.tables import compare_runs
from hylora_eval.results import Result
from tests import command_line
from tests.eval.compare.results import losses, scores, shifted, write

run = partial(command_line.run, "eval", "compare", env={"COLUMNS": "160"})


@pytest.fixture
def three(tmp_path):
    """A baseline, a run that is 1 % better throughout, and one that is neither better nor worse."""
    records = {"base": losses(), "better": shifted(0.01), "even": shifted(0.001, noise=0.02)}
    return [write(tmp_path / f"{name}.json", record) for name, record in records.items()]


def tables(paths, baseline=None):
    runs = read_runs(paths)
    return compare_runs(runs, find_run(runs, baseline))


def test_a_mark_stands_only_where_the_difference_is_clear(three):
    first, second = tables(three)
    assert (first.kind, first.length, second.length, first.comparisons) == ("perplexity", 64, 128, 2)
    assert [(line.run, line.verdict, line.best) for line in first.lines] == [
        ("base", "", False),
        ("better", "better", False),  # better than the baseline, and not clearly than the other
        ("even", "", False),
    ]
    found = [differences(*(Result(json.loads(path.read_text())) for path in (three[0], other))) for other in three[1:]]
    expected = [pair[0].found for pair in found]
    assert [line.difference for line in first.lines[1:]] == expected
    assert [line.p for line in first.lines[1:]] == holm(one.p for one in expected)


def test_the_best_is_clearly_better_than_every_other(tmp_path):
    paths = [
        write(tmp_path / f"{name}.json", shifted(gain, noise=noise))
        for name, gain, noise in (("a", 0.0, 0.0), ("b", 0.05, 0.002), ("c", 0.2, 0.004))
    ]
    lines = tables(paths)[0].lines
    assert [(line.run, line.verdict, line.best) for line in lines] == [
        ("a", "", False),
        ("b", "better", False),
        ("c", "better", True),
    ]
    # Against another baseline the same run is best, and the first is worse.
    lines = tables(paths, "c")[0].lines
    assert [(line.run, line.verdict, line.best) for line in lines] == [
        ("c", "", True),
        ("a", "worse", False),
        ("b", "worse", False),
    ]


def test_no_run_is_best_that_is_not_shown_to_be_better(tmp_path):
    """By 6 samples, p = 0.03 against each of two others; against the baseline it is one of two comparisons."""
    names = ("base", "first", "low")
    paths = [
        write(tmp_path / f"{name}.json", scores({"vt": [100 * (name == "first")] * 6 + [0] * 14})) for name in names
    ]
    for baseline in (None, "first"):
        table = tables(paths, baseline)[-1]
        assert {line.p for line in table.lines if line.p is not None} <= {2 * 2 / 2**6, 1.0}
        assert [(line.verdict, line.best) for line in table.lines] == [("", False)] * 3


def test_what_is_no_more_than_one_of_many_chances_is_not_marked(tmp_path):
    """One task of 20 with 6 samples of its own: p = 0.03 alone, and nothing among 20 comparisons."""
    from hylora_eval.ruler.tasks import TASKS

    names = list(TASKS)
    first = {task: [0] * 20 for task in names}
    second = {**first, names[0]: [100] * 6 + [0] * 14}
    alone = {names[0]: first[names[0]]}, {names[0]: second[names[0]]}
    for number, (pair, verdict) in enumerate([(alone, "better"), ((first, second), "")]):
        paths = [write(tmp_path / f"{number}/{name}.json", scores(p)) for name, p in zip("ab", pair, strict=True)]
        table = tables(paths)[-1]
        line = next(line for line in table.lines if line.what == names[0] and line.run == "b")
        assert line.difference.p == pytest.approx(2 / 2**6) and line.verdict == verdict, table.comparisons
        assert line.p == pytest.approx(min(1, table.comparisons * 2 / 2**6))
        assert line.outcomes == (0, 0, 6, 14)


def test_averages_stand_apart_from_tasks(tmp_path):
    first = {"niah_multivalue": [100, 50, 0, 25] * 5, "niah_multiquery": [100, 100, 75, 0] * 5}
    second = {"niah_multivalue": [100, 75, 50, 25] * 5, "niah_multiquery": [100, 100, 100, 0] * 5}
    paths = [write(tmp_path / f"{name}.json", scores(values)) for name, values in (("a", first), ("b", second))]
    averages, tasks = tables(paths)
    assert [line.what for line in averages.lines] == ["NIAH-M-QV"] * 2
    assert [line.what for line in tasks.lines] == ["niah_multivalue"] * 2 + ["niah_multiquery"] * 2
    assert averages.lines[1].value == pytest.approx((62.5 + 75) / 2) and averages.lines[1].outcomes is None
    assert averages.lines[1].verdict == "better" and averages.lines[1].best


def test_nothing_is_cut_where_a_terminal_is_narrow(tmp_path):
    tasks = {f"niah_single_{number}": [100, 0, 100, 0, 0] for number in (1, 2, 3)}
    paths = [write(tmp_path / f"{name}.json", scores(tasks)) for name in ("baseline", "some_longer_name")]
    shown = run(*paths, env={"COLUMNS": "80"}).stdout
    assert "…" not in shown and all(shown.count(task) == 2 for task in tasks)
    assert "+0.0 [-39.6, +39.6]" in shown and "Samples with all answers right" in shown


def test_a_task_that_is_alone_has_its_name(tmp_path):
    paths = [write(tmp_path / f"{name}.json", scores({"qa_1": [100, 0]}, prompts=name * 64)) for name in "ab"]
    shown = run(*paths).stdout
    assert "│ qa_1 │ a " in shown and "(qa_1)." in shown


def test_runs_are_called_by_what_tells_them_apart(tmp_path):
    paths = [write(tmp_path / name / "ppl.json", losses()) for name in ("se/a", "se/b", "sw/b")]
    assert [one.name for one in read_runs(paths)] == ["a/ppl", "se/b/ppl", "sw/b/ppl"]
    assert [one.name for one in read_runs([path.parent for path in paths])] == ["a", "se/b", "sw/b"]


def test_a_folder_is_a_run_with_a_result_of_each_kind(tmp_path):
    for name, gain in (("a", 0.0), ("b", 0.01)):
        write(tmp_path / name / "ppl.json", shifted(gain))
        write(tmp_path / name / "ruler.json", scores({"vt": [100, 0, 100 * (name == "b")]}))
        write(tmp_path / name / "config.json", {"hidden_size": 8})
        (tmp_path / name / "broken.json").write_text("{")
    found = tables([tmp_path / "a", tmp_path / "b"])
    assert [(table.kind, table.length) for table in found] == [
        ("perplexity", 64),
        ("perplexity", 128),
        ("ruler", 4096),
        ("ruler", 4096),
    ]


def test_the_command_shows_differences_and_writes_them(tmp_path, three):
    result = run(*three, "--output", tmp_path / "compare.json")
    assert result.exit_code == 0, (result.output, result.exception)
    assert sum(line.endswith("│ better │") for line in result.stdout.splitlines()) == 2
    assert f"{100 * math.expm1(-0.01 - 0.001 * 170 / 430):+.2f} % [-1" in result.stdout
    said = " ".join(result.stdout.split())
    assert "corrected for the 2 comparisons of its table (Holm)" in said
    record = json.loads((tmp_path / "compare.json").read_text())
    assert (record["kind"], record["baseline"]) == ("compare", "base")
    assert [one["name"] for one in record["runs"]] == ["base", "better", "even"]
    line = record["tables"][0]["lines"][1]
    assert line["difference"]["units"] == 4 and line["difference"]["low"] < -0.01 < line["difference"]["high"]
    assert line["p"] >= line["difference"]["p"] > 0 and line["unpaired"] is None
    assert "exists" in str(run(*three, "--output", tmp_path / "compare.json").exception)


def test_what_cannot_be_paired_is_said_in_words(tmp_path):
    paths = [
        write(tmp_path / "base.json", losses()),
        write(tmp_path / "old.json", losses(None)),
        write(tmp_path / "other.json", losses(tokens="c" * 64)),
        write(tmp_path / "short.json", losses(lengths=(64,))),
    ]
    result = run(*paths)
    said = " ".join(result.stdout.split())
    assert "Not paired: old: this result keeps no sum of each document: run hylora eval ppl anew." in said
    assert "Not paired: other: other documents (data.tokens_sha256 differs)" in said
    assert "Not paired: short: has no result here: evaluate it at this length too." in said
    assert said.count("unpaired") >= 4 and "Unpaired intervals are as if from other items each" in said
    # The one that can be paired does not differ.
    assert "+0.00 % [+0.00, +0.00] │ 1.0000" in said and "worse │" not in said and "better │" not in said


def test_right_and_wrong_samples_are_counted(tmp_path):
    paths = [
        write(tmp_path / "a.json", scores({"vt": [100] * 11 + [0] * 13 + [100] * 5})),
        write(tmp_path / "b.json", scores({"vt": [100] * 11 + [0] * 6 + [100] * 7 + [0] * 5})),
    ]
    result = run(*paths)
    *_, row = [line for line in result.stdout.splitlines() if "│ b " in line]
    assert [cell.strip() for cell in row.split("│")][-5:-1] == ["11", "5", "7", "6"]
    assert "McNemar's exact test" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.json"], "give two or more different results"),
        (["a.json", "a.json"], "give two or more different results"),
        (["a.json", "nothing.json"], "'nothing.json' does not exist"),
        (["a.json", "words.json"], "'words.json' holds no result of hylora eval ppl or hylora eval ruler"),
        (["a.json", "runtime.json"], "'runtime.json' holds no result"),
        (["a.json", "two"], "the folder 'two' holds 'x.json' and 'y.json', both of kind 'perplexity'; give the files"),
        (["a.json", "empty"], "'empty' holds no result"),
        (["a.json", "b.json", "--baseline", "c"], "baseline='c' is none of a, b; name one of them"),
        (["a.json", "ruler.json"], "no other run has a result of the kinds and context lengths of the baseline 'a'"),
        (["a.json", "damaged.json"], "damaged.json: results[0].document_tokens must have a number for each of 4"),
    ],
)
def test_wrong_input_is_named(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "two/x", "two/y"):
        write(tmp_path / f"{name}.json", losses())
    write(tmp_path / "ruler.json", scores({"vt": [100]}))
    write(tmp_path / "runtime.json", {"kind": "runtime"})
    write(tmp_path / "damaged.json", losses(document_tokens=[1]))
    (tmp_path / "words.json").write_text("words")
    (tmp_path / "empty").mkdir()
    result = run(*arguments)
    assert isinstance(result.exception, (ValueError, OSError)) and message in str(result.exception)


def test_it_starts_without_the_heavy_packages(three):
    script = """
import sys
from hylora_cli import main
sys.argv = ["hylora", "eval", "compare", *sys.argv[1:]]
try:
    main()
finally:
    print({"torch", "numpy", "transformers"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script, *map(str, three)], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("set()"), done.stdout
