# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/guides/data.md."""

from __future__ import annotations

import datasets
import pytest
import yaml

from hylora.language.data import DataRecipe
from hylora.training.recipe_loading import build as build_recipe
from tests.pages import blocks, page

PAGE = page("docs/guides/data.md")


@pytest.mark.parametrize("block", blocks(PAGE, "yaml"))
def test_recipes_load(block):
    tree = yaml.safe_load(block)
    assert list(tree) == ["data"]
    recipe = build_recipe(DataRecipe, tree["data"], key="data")
    assert recipe.sources


def test_the_program_runs(write, tokenizer, tmp_path, monkeypatch, capsys):
    (program,) = blocks(PAGE, "python")
    write("corpus.jsonl", [f"document {index} " * 20 for index in range(20)])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    names = {}
    exec(program, names)
    assert names["batch"]["labels"].shape == (2, 64)
    assert "'documents'" in capsys.readouterr().out
