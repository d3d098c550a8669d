# SPDX-License-Identifier: Apache-2.0
"""The commands and the code of docs/guides/compare.md run, and show what stands there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.command_line import run
from tests.pages import ROOT, blocks, commands, page

COMPARE = page("docs/guides/compare.md")


def test_the_commands_show_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "docs/benchmarks/compare", "docs/benchmarks/compare")
    shown = []
    for program, *arguments in commands(COMPARE):
        result = run(*arguments, env={"COLUMNS": "100"})
        assert program == "hylora" and result.exit_code == 0, (arguments, result.output, result.exception)
        shown.append(result.stdout)
    (text,) = blocks(COMPARE, "text")
    assert shown[0].split() == text.split()
    record = json.loads(Path("compare.json").read_text())
    assert record["baseline"] == "full" and len(record["tables"]) == 2


def test_the_figures_of_the_page_are_those_of_the_files():
    for name, figure in (("full", "191.7 [179.9, 204.3]"), ("window_64", "183.5\n[171.8, 196.1]")):
        row = json.loads((ROOT / f"docs/benchmarks/compare/{name}.json").read_text())["results"][1]
        value, low, high = (f"{row[key]:.1f}" for key in ("perplexity", "low", "high"))
        assert f"{value} [{low}, {high}]" == figure.replace("\n", " ") and figure in COMPARE


def test_the_code_shows_what_the_page_says(capsys):
    for block in blocks(COMPARE, "python"):
        exec(block, {})
    printed = capsys.readouterr().out
    assert "p 0.0625, better: None" in printed
