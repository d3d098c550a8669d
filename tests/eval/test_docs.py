# SPDX-License-Identifier: Apache-2.0
"""The commands and the code of docs/guides/evaluate.md and runtime.md run as they stand there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hylora import RunManifest
from tests.command_line import run
from tests.pages import blocks, commands, page
from tests.tiny import tiny_bamba

EVALUATE, RUNTIME = page("docs/guides/evaluate.md"), page("docs/guides/runtime.md")


@pytest.fixture
def workplace(tmp_path, monkeypatch, tokenizer, write_text):
    monkeypatch.chdir(tmp_path)
    tiny_bamba().save_pretrained("out/bamba_8k")
    tokenizer.save_pretrained("out/bamba_8k")
    RunManifest(attention="sw_attn").save("out/bamba_8k")
    Path("books").mkdir()
    for seed in range(2):
        Path(f"books/{seed}.txt").write_text(write_text(2500, seed))
    Path("books.jsonl").write_text(json.dumps({"body": write_text(2200)}))
    Path("pg19").mkdir()
    Path("pg19/test.bin").write_bytes((np.arange(3000) % 96).astype("<u2").tobytes())


def test_the_commands_run(workplace):
    written = commands(EVALUATE) + commands(RUNTIME)
    assert len(written) == 7
    for program, *arguments in written:
        result = run(*arguments)
        assert program == "hylora" and result.exit_code == 0, (arguments, result.output, result.exception)
    assert json.loads(Path("same.json").read_text())["attention"]["name"] == "sw_attn"
    assert Path("runtime.json").exists() and Path("runtime.png").exists()


def test_the_code_runs(workplace, capsys):
    names: dict = {}
    for block in blocks(EVALUATE, "python"):
        exec(block, names)
    printed = capsys.readouterr().out
    assert "with sdpa" in printed
    assert "hit rate" in printed
