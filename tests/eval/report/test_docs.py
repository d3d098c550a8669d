# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/guides/report.md run as they stand there, on the results that come with it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.command_line import run
from tests.pages import ROOT, commands, page


def test_the_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    lines = commands(page("docs/guides/report.md"))
    assert len(lines) == 4
    for program, *arguments in lines:
        result = run(*arguments)
        assert program == "hylora" and result.exit_code == 0, (arguments, result.output, result.exception)
    tables = Path("report/report.md").read_text(encoding="utf-8")
    # As the picture shows them.
    assert "| SW-Attn → SW-Attn | sw, HyLoRA, rank 8 | 101.80 ± 10.02 |" in tables
    assert "12 result files" in Path("report/report.html").read_text(encoding="utf-8")
    assert "difference to full" in Path("reports/differences/report.md").read_text(encoding="utf-8")
    assert "2 result files" in Path("reports/miniature/report.html").read_text(encoding="utf-8")


def test_results_name_no_machine():
    for path in (ROOT / "docs/benchmarks/report").glob("*.json"):
        assert not re.search(r'": "/', path.read_text()), path
