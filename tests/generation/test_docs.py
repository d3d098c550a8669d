# SPDX-License-Identifier: Apache-2.0
"""Code and commands of docs/guides/generate.md run as they stand there."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from hylora import RunManifest, SpanConfig
from tests.command_line import run
from tests.pages import ROOT, blocks, commands, page
from tests.tiny import tiny_bamba

PAGE = page("docs/guides/generate.md")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "hylora/demo/assets")
    model = tiny_bamba(vocab_size=len(tokenizer), num_hidden_layers=2, attn_layer_indices=[1])
    model.save_pretrained("out/bamba_8k")
    tokenizer.save_pretrained("out/bamba_8k")
    RunManifest(attention="se_attn", span_attention=SpanConfig(chunk_size=32).to_dict()).save("out/bamba_8k")
    (tmp_path / "book.txt").write_text("The harbour lay in the fog. " * 9)
    return tmp_path


def test_the_pages_code_runs(here, capsys):
    names: dict = {}
    for block in blocks(PAGE, "python"):
        exec(block, names)
    assert "The harbour lay in the" in capsys.readouterr().out
    assert names["prefix"].get_seq_length() == names["inputs"]["input_ids"].shape[1]


def test_the_pages_commands_run(here):
    for words in commands(PAGE):
        start = words.index("hylora") + 1
        result = run(*words[start:], input=(here / "book.txt").read_text() if start > 1 else None)
        assert result.exit_code == 0, result.output
        assert "written" in result.stderr
