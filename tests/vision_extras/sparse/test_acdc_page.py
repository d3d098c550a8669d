# SPDX-License-Identifier: Apache-2.0
"""The page about sparse and dense phases: its code runs, its recipes load, and its picture is drawn."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.pages import ROOT, blocks, commands, page
from vision_extras.recipe import ImageRecipe

PAGE = page("docs/guides/acdc.md")


def test_its_code_takes_weights_away(capsys):
    (code,) = blocks(PAGE, "python")
    exec(compile(code, "acdc.md", "exec"), {})
    assert float(capsys.readouterr().out) == pytest.approx(0.9, abs=1e-3)


def test_its_commands_name_recipes_that_load():
    runs = [words for words in commands(PAGE) if "hylora.train" in words]
    recipes = [ImageRecipe.load(ROOT / words[words.index("hylora.train") + 1]) for words in runs]
    assert [recipe.sparse.schedule for recipe in recipes] == ["alternating", "gradual"]


@pytest.mark.parametrize("name", ["sparse_acdc", "cifar10/acdc", "imagenet/resnet50_acdc"])
def test_what_recipes_say_can_be_overridden_works(name):
    """Each override of their comments that is about phases."""
    path = ROOT / f"recipes/vision/{name}.yaml"
    lines = [line for line in path.read_text().splitlines() if line.startswith("#   ")]
    found = [[word for word in line.split() if word.startswith("sparse.")] for line in lines]
    assert sum(map(bool, found)) >= 3
    for overrides in found:
        ImageRecipe.load(path, overrides)


@pytest.mark.slow
def test_its_picture_is_drawn(tmp_path):
    call = [sys.executable, str(ROOT / "docs/draw_acdc.py"), str(tmp_path / "drawn.png")]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert "| AC/DC | 50 | 50 | 0.590 |" in done.stdout.splitlines()
    assert (tmp_path / "drawn.png").stat().st_size < 100_000
