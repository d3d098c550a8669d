# SPDX-License-Identifier: Apache-2.0
"""The code of docs/concepts/hylora.md and docs/guides/adapters.md runs as it stands there."""

from __future__ import annotations

import torch
import yaml
from transformers import AutoModelForCausalLM

from hylora.adapters import trainable_groups
from hylora.language import LanguageRecipe
from hylora.language.model import plan_model
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


def test_the_guides_adapters_can_be(tmp_path):
    guide = page("docs/guides/adapters.md")
    names = {"model": tiny_bamba()}
    for block in blocks(guide, "python"):
        exec(block, names)
    assert trainable_groups(names["model"])["convs"]
    # no row of the tiny model is a block long
    tiny_bamba(hidden_size=64).save_pretrained(tmp_path)
    tree = {"data": {"sources": [{"path": "-"}]}, "output": {"path": "-"}}
    for block in blocks(guide, "yaml"):
        tree |= yaml.safe_load(block)
    tree["model"]["path"] = str(tmp_path)
    plan = plan_model(LanguageRecipe.from_tree(tree))
    assert plan.adapter.rank_pattern == {"o_proj": 32}
    assert plan.quantization.kept == ("lm_head", "out_proj")
