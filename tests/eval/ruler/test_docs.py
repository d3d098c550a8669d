# SPDX-License-Identifier: Apache-2.0
"""What docs/guides/ruler.md says: its commands, its code, and its figures."""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

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


def written(start):
    """The commands that begin so, without `hylora`."""
    return [line[1:] for line in commands(PAGE) if line[1:3] == ["eval", start]]


def test_every_command_is_run_by_a_test():
    counts = {start: len(written(start)) for start in ("ruler", "ruler-generate", "ruler-score")}
    assert counts == {"ruler": 5, "ruler-generate": 1, "ruler-score": 1}
    (launch,) = (line for line in commands(PAGE) if line[0] != "hylora")
    assert launch[:6] == ["accelerate", "launch", "--num_processes", "8", "-m", "hylora_cli"]
    assert len(commands(PAGE)) == 8


@pytest.mark.skipif(version("wonderwords") != "3.0.1", reason="other words fit other lengths")
def test_the_long_commands_are_right_up_to_loading_the_model(workplace, monkeypatch):
    def load(self):
        raise Loading

    monkeypatch.setattr(ModelOptions, "load_model", load)
    (launch,) = (line[6:] for line in commands(PAGE) if line[0] == "accelerate")
    # Its length takes seconds to check.
    launch = [{"65536": "8192"}.get(part, part) for part in launch]
    for arguments in [*written("ruler")[:2], launch]:
        # With 500 samples the demo's tokenizer, which has few words, needs more room than others.
        arguments = [*("1" if part == "500" else part for part in arguments)]
        result = run(*arguments, *([] if "--samples" in arguments else ["--samples", "1"]))
        assert isinstance(result.exception, Loading), (arguments, result.output, result.exception)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_the_short_commands_run(workplace, number):
    arguments = written("ruler")[number]
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "2048" in result.stdout
    assert all(name in result.stdout for name in arguments[arguments.index("--tasks") + 1].split(","))


@pytest.mark.skipif(version("wonderwords") != "3.0.1", reason="other words fit other lengths")
def test_prompts_go_to_vllm_and_answers_come_back(workplace, monkeypatch):
    """With a stand-in for vLLM that answers nothing."""
    (generate,), (score,) = written("ruler-generate"), written("ruler-score")
    result = run(*("1" if part == "100" else part for part in generate))
    assert result.exit_code == 0, (result.output, result.exception)
    asked = []

    class LLM:
        def __init__(self, model):
            assert model == "out/bamba_8k"

        def generate(self, prompts, settings):
            asked.extend(settings)
            return [SimpleNamespace(outputs=[SimpleNamespace(text="")]) for _ in prompts]

    vllm = SimpleNamespace(LLM=LLM, SamplingParams=lambda **settings: settings)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    (block,) = (block for block in blocks(PAGE, "python") if "vllm" in block)
    exec(block, {})
    assert len(asked) == 22 and asked[0] == {"temperature": 0, "max_tokens": 128}
    result = run(*score)
    assert result.exit_code == 0, (result.output, result.exception)
    rows = json.loads(Path("ruler.json").read_text())["results"]
    assert [(row["score"], row["empty"]) for row in rows] == [(0.0, 1)] * 22


def test_the_code_runs(workplace, capsys):
    for block in blocks(PAGE, "python"):
        if "vllm" not in block:
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
