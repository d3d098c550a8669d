# SPDX-License-Identifier: Apache-2.0
"""The pages about tasks and reliability: their code runs, and their commands find tests."""

from __future__ import annotations

import re

from tests.outcomes import records_of
from tests.pages import ROOT, blocks, page


def test_the_page_about_tasks_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {}
    task, method = blocks(page("docs/guides/tasks.md"), "python")
    exec(compile(task, "docs/guides/tasks.md", "exec"), scope)
    assert scope["result"].steps == 50 and (tmp_path / "outputs/line/model.safetensors").is_file()
    exec(compile(method, "docs/guides/tasks.md", "exec"), scope)
    assert scope["result"].steps == 5 and records_of(tmp_path / "outputs/noted")[-1]["weights"] > 0


def test_every_promise_names_tests_that_exist():
    text = page("docs/reliability.md")
    (shorthand,) = re.findall(r"`T` stands for `(.+?)`", text)
    commands = re.findall(r"\| `(.+?)` \|", text)
    assert len(commands) > 10
    for command in commands:
        file, selection = re.search(r'(\S+\.py) -k "?([^"]+)"?$', re.sub("^T ", f"{shorthand} ", command)).groups()
        names = re.findall(r"def (test_\w+)", (ROOT / file).read_text())
        for part in selection.split(" or "):
            assert any(part in name for name in names), command
