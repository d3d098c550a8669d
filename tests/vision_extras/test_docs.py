# SPDX-License-Identifier: Apache-2.0
"""The overview of the vision work: its code runs, its commands name what is there, and its pages are all there."""

from __future__ import annotations

import re
from dataclasses import fields

from tests.pages import ROOT, blocks, commands, page
from vision_extras.recipe import ImageRecipe

OVERVIEW = "docs/guides/images.md"


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    (code,) = blocks(page(OVERVIEW), "python")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    scope = {}
    exec(compile(code, OVERVIEW, "exec"), scope)
    assert scope["result"].evaluation["accuracy"] > 0.2
    assert (tmp_path / "outputs/own/model.safetensors").is_file()


def test_the_pages_command_names_a_recipe_that_loads():
    (words,) = [line for line in commands(page(OVERVIEW)) if "hylora.train" in line]
    path, *overrides = words[words.index("hylora.train") + 1 :]
    assert ImageRecipe.load(ROOT / path, overrides).task == "images"


def test_every_section_has_its_page():
    text = page(OVERVIEW)
    named = set(re.findall(r"`(\w+)`", "".join(line for line in text.splitlines() if line.startswith("| ["))))
    own = {item.name for item in fields(ImageRecipe)} - {"task", "optimizer", "training", "tracking", "output"}
    assert own - named == {"sharpness"} and "sharpness" in text
