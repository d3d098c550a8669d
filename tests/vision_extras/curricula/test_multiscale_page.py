# SPDX-License-Identifier: Apache-2.0
"""The page about multiscale sampling: its commands, its code and its table."""

from __future__ import annotations

import runpy

import pytest

from tests.pages import ROOT, blocks, commands, page
from vision_extras.recipe import ImageRecipe

PAGE = "docs/guides/multiscale.md"
RECIPES = sorted((ROOT / "recipes/vision/samplers").glob("*.yaml"))


def test_its_commands_name_shipped_recipes():
    (words,) = [line for line in commands(page(PAGE)) if "hylora.train" in line]
    assert ROOT / words[-1] in RECIPES


def test_its_code_runs():
    (code,) = blocks(page(PAGE), "python")
    names: dict = {}
    exec(code, names)
    assert names["loss"].isfinite()


def test_its_table_is_what_the_formulas_give():
    table = runpy.run_path(str(ROOT / "docs/draw_multiscale.py"))["table"]
    assert "\n".join(table()) in page(PAGE)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_differ_in_their_sampler_alone(path):
    trees = [ImageRecipe.load(found).to_tree() for found in (RECIPES[0], path)]
    assert trees[1]["sampler"]["name"] == path.stem
    for tree in trees:
        del tree["sampler"], tree["output"]
    assert trees[0] == trees[1]
