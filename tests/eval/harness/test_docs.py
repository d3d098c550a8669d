# SPDX-License-Identifier: Apache-2.0
"""The commands, the task and the code of docs/guides/harness.md run as they stand there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import hylora
from hylora_eval.commands.model_options import ModelOptions
from hylora_eval.harness import TASK_SETS
from tests import command_line
from tests.eval.harness.conftest import network
from tests.pages import blocks, commands, page

PAGE = page("docs/guides/harness.md")


class Loading(Exception):
    """All was checked and the model would be loaded now."""


@pytest.fixture
def workplace(tmp_path, monkeypatch, demo_tokenizer, questions):
    monkeypatch.chdir(tmp_path)
    network().save_pretrained("out/bamba_8k")
    demo_tokenizer.save_pretrained("out/bamba_8k")
    hylora.RunManifest("sw_attn").save("out/bamba_8k")
    Path("my_tasks").mkdir()
    Path("my_tasks/questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    Path("my_tasks/mytask.yaml").write_text(blocks(PAGE, "yaml")[0])


def run(number):
    lines = commands(PAGE)
    assert len(lines) == 5
    program, *arguments = lines[number]
    assert program == "hylora"
    return command_line.run(*arguments)


def test_the_task_with_local_data_runs(own_tasks_only, workplace):
    result = run(2)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "mytask" in result.stdout


def test_the_ruler_command_is_right_up_to_loading_the_model(own_tasks_only, workplace, monkeypatch):
    def load(self):
        raise Loading

    monkeypatch.setattr(ModelOptions, "load_model", load)
    assert isinstance(run(3).exception, Loading)


def test_the_command_on_long_tasks_asks_for_what_the_page_says(workplace, monkeypatch):
    asked = []

    def load(names, *arguments):
        asked.extend(names)
        raise Loading

    monkeypatch.setattr("hylora_eval.harness.load_tasks", load)
    assert isinstance(run(4).exception, Loading)
    babilong = [f"babilong_qa{number}@8k" for number in range(1, 6)]
    assert asked == [*babilong, *TASK_SETS["longbench-v2"], *TASK_SETS["infinite-bench"]]


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_the_commands_on_the_thesis_tasks_run(workplace, stand_ins, number):
    result = run(number)
    assert result.exit_code == 0, (result.output, result.exception)
    assert Path("harness.json").exists() == (number == 0)


def test_the_code_runs(workplace, capsys):
    for block in blocks(PAGE, "python"):
        exec(block, {})
    score, perplexity = capsys.readouterr().out.split()[-2:]
    assert 0 <= float(score) <= 100 and float(perplexity) > 1


def test_the_sets_are_those_of_the_code():
    for name, tasks in TASK_SETS.items():
        (row,) = re.findall(rf"^\| `{name}` \| (.*) \|$", PAGE, re.MULTILINE)
        assert tuple(re.findall(r"`(\w+)`", row)) == tasks
