# SPDX-License-Identifier: Apache-2.0
"""The page's script as a reader meets it: under node with a stand-in for a browser, and in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from hylora_eval.report.collect import collect
from hylora_eval.report.write import write_report
from tests.eval.report import made

HERE = Path(__file__).parent
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)


def in_node(folder: Path):
    command = ["node", HERE / "dom.js", folder / "report.html", HERE / "scenario.js"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)


def in_browser(folder: Path):
    """The scenario as a last script of the page, which leaves what it saw in the page."""
    page, scenario = (
        folder / "scenario.html",
        (HERE / "scenario.js").read_text(encoding="utf-8").split("\n(() => {")[1],
    )
    script = f"const seen = (() => {{{scenario.rstrip().removesuffix('();')}();"
    script = f'{script}\ndocument.body.dataset.seen = "SEEN" + JSON.stringify(seen) + "SEEN";'
    text = (folder / "report.html").read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,800", "--dump-dom"]
    command = [BROWSER, *options, page.as_uri()]
    dumped = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    return json.loads(unescape(re.search(r'data-seen="SEEN(.*?)SEEN"', dumped, re.S)[1]))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(in_node, marks=pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")),
        pytest.param(in_browser, marks=[pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium")]),
    ],
    ids=["node", "browser"],
)
def show(request, tmp_path_factory):
    """A function that gives what a reader of a report on so many runs sees."""

    def show(runs: int):
        folder = tmp_path_factory.mktemp("report")
        for index in range(runs):
            # The second was not measured at one length, and came to nothing at another; its value at 8 is the best.
            values = {8: 5.0 + index, 16: 4.0 + index, 32: 3.0 + index, 64: 2.0 + index, 128: 1.0 + index}
            if index == 1:
                values = {8: 1.0, 16: float("inf"), 32: 4.0, 128: 2.0}
            errors = dict.fromkeys(values, 0.01)
            trained = ("sdpa", "se_attn")[index % 2]
            options = {"run": f"out/run{index}", "trained": trained, "adapter": ("lora", index + 5, 2 * (index + 5))}
            made.write(folder / "in", f"{index}.json", made.perplexity(values, errors=errors, **options))
        write_report(folder / "out", collect([folder / "in"]))
        return request.param(folder / "out")

    return show


@pytest.fixture(scope="module")
def few(show):
    return show(6)


@pytest.fixture(scope="module")
def many(show):
    return show(12)


ROWS = ["run0, rank 5", "run2, rank 7", "run4, rank 9", "run1, rank 6", "run3, rank 8", "run5, rank 10"]
NAMES = [f"{'SE' if row[3] in '135' else 'Full'}-Attn → Full-Attn, {row[6:]}" for row in ROWS]


def test_everything_is_shown_until_something_is_asked(few):
    start = few["start"]
    assert start["rows"] == ROWS and start["greyRows"] == start["greyLines"] == []
    assert start["runs"] == [f"run{index}" for index in range(6)]
    assert few["switched"]["rows"] == ROWS


def test_a_line_has_gaps_where_values_are_missing(few):
    """A line to each point from the one before it, but for the run that has neither 16 nor 64."""
    assert few["start"]["lines"] == ["MLLLL"] * 3 + ["MMM"] + ["MLLLL"] * 2


def test_bars_of_errors_are_left_out_of_a_crowded_chart_until_asked_for(few):
    assert (few["errorBars"], few["errorBarsAfter"]) == (0, 28)


def test_search_narrows_runs_rows_and_lines(few):
    # A number is one that stands alone: neither that of run5, nor a part of another.
    assert few["search"]["rows"] == ["run0, rank 5"] and few["search"]["runs"] == ["run0"]
    assert few["search"]["lines"] == ["MLLLL"]
    # Of the tables by rank only those are left that hold the run.
    assert few["search"]["sections"] == 3
    nothing = few["nothing"]
    assert nothing["rows"] == nothing["runs"] == nothing["lines"] == [] and "Nothing is selected" in nothing["text"]


def test_picking_greys_the_others_and_may_hide_them(few):
    others = [row for row in ROWS if row != "run3, rank 8"]
    picked = few["picked"]
    assert few["count"] == "1" and picked["rows"] == ROWS and picked["greyRows"] == others
    assert sorted(picked["greyLines"]) == sorted(name for name in NAMES if not name.endswith("rank 8"))
    assert few["alone"]["rows"] == ["run3, rank 8"] and few["alone"]["lines"] == ["MLLLL"]


def test_the_best_are_those_of_what_is_shown(few):
    """Five columns; of run1 the first is the best of all, and it lacks the second and the fourth."""
    assert few["start"]["best"] == ["run0, rank 5"] * 4 + ["run1, rank 6"]
    assert few["filtered"]["attention"] == "Full-Attn"
    assert few["filtered"]["rows"] == ROWS[3:]
    assert few["filtered"]["best"] == ["run1, rank 6"] * 3 + ["run3, rank 8"] * 2
    assert few["alone"]["best"] == []


def test_keys_walk_along_a_line_and_across(few):
    said = [re.match(r"(.*?)\. context length \(tokens\) (\d+): ", words).groups() for words in few["words"]]
    first, second = NAMES[:2]
    assert said == [(first, "8"), (first, "16"), (first, "8"), (second, "8"), (first, "8"), (NAMES[-1], "128")]
    assert few["words"][0].endswith("0.json: results[0].perplexity")
    assert few["faded"] == NAMES[:-1] and few["tooltip"][0] is False and few["tooltip"][1].startswith(NAMES[-1])
    assert few["hash"] == "source-6" and few["after"] == [True, 0]


def test_a_row_under_the_pointer_stands_out_in_the_chart(few):
    assert few["hovered"] == ["run2, rank 7", 1]


def test_many_lines_are_drawn_one_by_one(few, many):
    """Each in a small chart of its own before the others in grey, until all are asked for in one."""
    assert few["start"]["panels"] == 0 and few["switched"]["panels"] == 6
    start, switched = many["start"], many["switched"]
    assert (start["panels"], len(start["lines"]), len(start["greyLines"])) == (12, 12 * 12, 12 * 11)
    assert (switched["panels"], len(switched["lines"]), switched["greyLines"]) == (0, 12, [])
    assert many["picked"]["panels"] == 1 and many["search"]["panels"] == 1
