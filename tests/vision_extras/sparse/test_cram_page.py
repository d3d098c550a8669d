# SPDX-License-Identifier: Apache-2.0
"""The page about compression-aware updates: its recipes and overrides load, and its picture is drawn."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.pages import ROOT, commands, page
from vision_extras.recipe import ImageRecipe

PAGE = page("docs/guides/cram.md")
RECIPES = [f"recipes/vision/{name}.yaml" for name in ("sparse_cram", "cifar10/cram", "imagenet/resnet50_cram")]
OVERRIDE = re.compile(r"(?:cram|sharpness|one_shot)\.\w+=(?:\[[^]]*\]|[^\s;`]+)")


def test_its_command_names_a_recipe_that_loads():
    (words,) = [words for words in commands(PAGE) if "hylora.train" in words]
    assert ImageRecipe.load(ROOT / words[words.index("hylora.train") + 1]).cram.update == "cram"


def test_relatives_are_overrides():
    rows = [OVERRIDE.findall(line) for line in PAGE.splitlines() if line.startswith("|")]
    made = [ImageRecipe.load(ROOT / RECIPES[0], overrides) for overrides in rows if overrides]
    found = {(each.cram.update, each.cram.plus, each.sharpness.radius > 0) for each in made}
    compressed = {("cram", True), ("cram", False), ("csam", False), ("topk", True), ("topk", False)}
    assert found == {(*each, False) for each in compressed} | {("none", True, True)}


@pytest.mark.parametrize("path", RECIPES)
def test_what_recipes_say_can_be_overridden_works(path):
    """Each override of their comments that is about these updates."""
    lines = [line for line in (ROOT / path).read_text().splitlines() if line.startswith("#   ")]
    found = [OVERRIDE.findall(line) for line in lines]
    assert sum(map(bool, found)) >= 3
    for overrides in found:
        ImageRecipe.load(ROOT / path, overrides)


@pytest.mark.slow
def test_its_picture_is_drawn(tmp_path):
    call = [sys.executable, str(ROOT / "docs/draw_cram.py"), str(tmp_path / "drawn.png")]
    subprocess.run(call, capture_output=True, text=True, check=True)
    assert (tmp_path / "drawn.png").stat().st_size < 100_000
