# SPDX-License-Identifier: Apache-2.0
"""The code of docs/concepts/hylora.md runs as it stands there."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from tests.pages import blocks, page
from tests.tiny import tiny_bamba


def test_the_pages_code_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_bamba().save_pretrained("bamba")
    names: dict = {}
    for block in blocks(page("docs/concepts/hylora.md"), "python"):
        exec(block, names)
    assert "convs" in capsys.readouterr().out
    assert names["logits"].dtype == torch.bfloat16
    merged = AutoModelForCausalLM.from_pretrained("merged")
    assert torch.equal(merged(names["ids"]).logits, names["merged"](names["ids"]).logits)
