# SPDX-License-Identifier: Apache-2.0
"""What docs/guides/ruler.md says: its commands, its code, and its figures."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

import hylora
from hylora_eval import ruler
from hylora_eval.commands.model_options import ModelOptions
from tests.command_line import run
from tests.eval.ruler.conftest import prose
from tests.pages import blocks, commands, page
from tests.tiny import tiny_llama

PAGE = page("docs/guides/ruler.md")


class Loading(Exception):
    """All was checked and the model would be loaded now."""


@pytest.fixture
def workplace(tmp_path, monkeypatch, tokenizers):
    monkeypatch.chdir(tmp_path)
    tiny_llama(vocab_size=len(tokenizers["demo"])).save_pretrained("out/bamba_8k")
    tokenizers["demo"].save_pretrained("out/bamba_8k")
    hylora.RunManifest(attention="sw_attn").save("out/bamba_8k")
    Path("essays").mkdir()
    Path("essays/one.txt").write_text(prose(300))


def written_commands():
    lines = commands(PAGE)
    assert len(lines) == 3 and {line[0] for line in lines} == {"hylora"}
    return [line[1:] for line in lines]


@pytest.mark.skipif(version("wonderwords") != "3.0.1", reason="other words fit other lengths")
def test_the_long_commands_are_right_up_to_loading_the_model(workplace, monkeypatch):
    def load(self):
        raise Loading

    monkeypatch.setattr(ModelOptions, "load_model", load)
    for arguments in written_commands()[:2]:
        # With 500 samples the demo's tokenizer, which has few words, needs more room than others.
        arguments = [("1" if part == "500" else part) for part in arguments]
        result = run(*arguments)
        assert isinstance(result.exception, Loading), (arguments, result.output, result.exception)


def test_the_short_command_runs(workplace):
    arguments = written_commands()[2]
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "2048" in result.stdout and "VT" in result.stdout


def test_the_code_runs(workplace, capsys):
    for block in blocks(PAGE, "python"):
        exec(block, {})
    assert "builtin" in capsys.readouterr().out
    assert len(ruler.load_records("niah_multiquery.jsonl")) == 5


def test_the_table_of_tasks_is_that_of_the_code():
    group = None
    found = []
    for name, task, tokens in re.findall(r"^\| ([A-Z-]*) ?\| `(\w+)` \|.*\| (\d+) \|$", PAGE, re.MULTILINE):
        group = name or group
        found.append(task)
        assert task in ruler.GROUPS[group]
        assert int(tokens) == ruler.TASKS[task].tokens_to_generate
    assert tuple(found) == ruler.ALL_TASKS


FIGURES = re.findall(r"^\| `(\w+)` \| (\d+) to (\d+) \| (\d+) to (\d+) \|$", PAGE, re.MULTILINE)


@pytest.mark.skipif(version("wonderwords") != "3.0.1", reason="other words fill otherwise")
@pytest.mark.parametrize("row", FIGURES, ids=lambda row: row[0])
def test_the_figures_of_how_full_a_context_is(row, tokenizers):
    task, *figures = row
    assert len(FIGURES) == 6
    measured = []
    for mode in ("exact", "strict"):
        records = ruler.generate(task, tokenizers["demo"], 4096, 20, mode=mode, sentences="rules")
        measured += [min(record.length for record in records), max(record.length for record in records)]
    assert measured == list(map(int, figures))
