# SPDX-License-Identifier: Apache-2.0
"""The benchmark of decoding steps runs, and the page shows what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from tests.pages import page

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_the_command_checks_times_and_reports(tmp_path):
    sizes = "--lengths 2304 --shapes 2x4x2 --head-dim 8 --rounds 2 --threads 1 --clock cpu"
    command = [sys.executable, str(ROOT / "benchmarks/decoding.py"), *sizes.split()]
    run = subprocess.run([*command, "--output", str(tmp_path / "decoding.json")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "| 2 | 4 / 2 | 2304 |" in run.stdout
    report = json.loads((tmp_path / "decoding.json").read_text())
    assert max(report["settings"]["errors"].values()) < 2e-5
    (result,) = report["results"]
    assert [len(point["seconds"]) for point in result["points"]] == [2] * 4
    assert result["bytes"]["S=16, k=16"]["rest"] > result["bytes"]["S=32, k=8"]["rest"]


def test_the_page_shows_what_was_measured():
    results = json.loads((ROOT / "docs/benchmarks/decoding_cpu.json").read_text())["results"]
    text = page("docs/concepts/decoding.md")
    rows = iter(line for line in text.splitlines() if "k | " in line and line.count("|") == 10)
    for result in results:
        if result["length"] not in (8192, 32768, 131072):
            continue
        seconds = {point["contender"]: point["seconds"] for point in result["points"]}
        full, grouped = (1e3 * median(seconds[name]) for name in ("full", "grouped"))
        cells = [cell.strip() for cell in next(rows).split("|")[2:-1]]
        assert cells[:2] == [f"{result['length'] // 1024}k", f"{full:.0f} / {grouped:.0f}"]
        for name, shown in (("S=16, k=16", cells[2:5]), ("S=32, k=8", cells[5:])):
            ratios = (
                median(a / b for a, b in zip(seconds[slow], seconds[name], strict=True))
                for slow in ("full", "grouped")
            )
            expected = [1e3 * median(seconds[name]), *ratios]
            assert shown == [f"{x:.1f}" if x < 9.95 else f"{x:.0f}" for x in expected]
    assert next(rows, None) is None
