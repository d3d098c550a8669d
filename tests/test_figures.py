# SPDX-License-Identifier: Apache-2.0
"""Figures in the README are those of the committed measurements."""

import json
import re

from hylora_eval.demo.settings import DemoSettings
from hylora_eval.demo.tables import markdown
from tests.pages import ROOT, page


def test_the_table_of_ratios_is_the_committed_benchmark():
    ratios = ("full/se", "full/se_token", "full/se_recall")
    measured = {
        result["length"]: [f"{result['ratios'][name][0]:.1f}" for name in ratios]
        for report in ("attention_cpu_tokens", "attention_cpu_tokens_64k")
        for result in json.loads((ROOT / f"docs/benchmarks/{report}.json").read_text())["results"]
    }
    rows = re.findall(r"^\| ([\d,]+) \| (.*) \|$", page("README.md"), flags=re.MULTILINE)
    assert {int(length.replace(",", "")): cells.split(" | ") for length, cells in rows} == measured


def test_the_demos_tables_are_the_committed_measurements():
    figures = json.loads((ROOT / "docs/benchmarks/demo_cpu.json").read_text())
    rendered = markdown(figures["results"], DemoSettings(**figures["settings"]), None)
    text = page("docs/guides/demo.md")
    rows = [line for line in rendered.splitlines() if line.startswith("|")]
    assert len(rows) > 60
    assert [row for row in rows if row not in text] == []
