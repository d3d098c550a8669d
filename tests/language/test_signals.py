# SPDX-License-Identifier: Apache-2.0
"""The signals of pruning, on a language model in training: the example of their page."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.outcomes import records_of
from tests.pages import blocks, page


def test_the_example_of_the_page_runs(recipe, text_file, tmp_path, monkeypatch):
    """Recorded where they are due, in range, and without a trace in what is trained."""
    from hylora.language import train

    settings = recipe({"output.path": str(tmp_path / "watched")})
    (code,) = [block for block in blocks(page("docs/guides/pruning_timing.md"), "python") if "LanguageRecipe" in block]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text(text_file.read_text())
    (tmp_path / "recipe.yaml").write_text("")
    settings.save(tmp_path / "recipe.yaml")
    exec(compile(code, "docs/guides/pruning_timing.md", "exec"), {})
    plain = train(recipe({"output.path": str(tmp_path / "plain")})).folder
    weights = [AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (plain, settings.output.path)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    watched = records_of(tmp_path / "watched")
    assert [record["step"] for record in watched if "fisher" in record] == [2, 4]
    for record in watched:
        assert 0 < record["kl_uniform"] < 10 * math.log(32)
        if "fisher" in record:
            assert 0 < record["fisher_error"] < record["fisher"]
    for record, other in zip(watched, records_of(plain), strict=True):
        assert record["loss"] == pytest.approx(other["loss"], rel=0)
