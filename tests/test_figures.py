# SPDX-License-Identifier: Apache-2.0
"""Figures in the README are those of the committed measurements."""

import json
import re

from hylora_eval.demo.settings import DemoSettings
from hylora_eval.demo.tables import markdown
from tests.pages import ROOT, page


def test_the_table_of_ratios_is_the_committed_benchmark():
    report = json.loads((ROOT / "docs/benchmarks/attention_cpu_float32.json").read_text())
    measured = {
        result["length"]: [f"{result['ratios'][name][0]:.2f}" for name in ("full/se", "sw/se", "s2/se", "se/nomem")]
        for result in report["results"]
        if result["pass"] == "forward+backward"
    }
    rows = re.findall(r"^\| ([\d,]+) \| (.*) \|$", page("README.md"), flags=re.MULTILINE)
    assert len(rows) == 4
    for length, cells in rows:
        assert cells.split(" | ") == measured[int(length.replace(",", ""))]


def test_the_demos_tables_are_the_committed_measurements():
    figures = json.loads((ROOT / "docs/benchmarks/demo_cpu.json").read_text())
    rendered = markdown(figures["results"], DemoSettings(**figures["settings"]), None)
    text = page("docs/guides/demo.md")
    rows = [line for line in rendered.splitlines() if line.startswith("|")]
    assert len(rows) > 60
    assert [row for row in rows if row not in text] == []
