# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/guides/image_metrics.md run as they stand there, for fewer epochs, and its recipes load."""

from __future__ import annotations

import re
from string import Template

import pytest
from typer.testing import CliRunner

from hylora import train
from hylora_cli import build_app
from hylora_eval.commands import COMMANDS as EVALUATE
from tests.pages import ROOT, blocks, commands, page
from vision_extras.commands import COMMANDS as IMAGES
from vision_extras.recipe import ImageRecipe

PAGE = page("docs/guides/image_metrics.md")
SHORT = ["training.epochs=1", "tracking.progress=false"]


def run(words):
    """A command of the page, whatever version is installed."""
    program, first, *arguments = words
    if program == "accelerate":
        return train.main([*arguments[arguments.index("hylora.train") + 1 :], *SHORT])
    done = CliRunner().invoke(build_app(arguments, {"images": IMAGES, "eval": EVALUATE}[first]), arguments)
    assert done.exception is None, (words, done.output)
    return done.exit_code


@pytest.mark.slow
def test_the_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    lines = [words for words in commands(PAGE) if words[0] in ("accelerate", "hylora") and "$" not in "".join(words)]
    lines = [words for words in lines if "outputs/regularization" not in words]
    assert len(lines) == 4
    for words in lines:
        assert run(words) == 0
    text = (tmp_path / "reports/digits_sides/report.md").read_text()
    for title in ("Cost of training", "What was measured", "Accuracy by resolution", "Other images"):
        assert f"## {title}: digits" in text
    assert "mnist: Top-1 accuracy (%)" in text


def test_the_grid_sets_what_recipes_have(tmp_path):
    """The loops' values, in the recipes that they name."""
    (grid,) = (block for block in blocks(PAGE, "bash") if "for " in block)
    values = {name: choices.split() for name, choices in re.findall(r"for (\w+) in (.*?); do", grid)}
    assert values["dropout"] == values["depth"] == ["0.0", "0.1", "0.2"] and "4e-3" in values["decay"]
    for sampler in values["sampler"]:
        names = {name: choices[-1] for name, choices in values.items()} | {"sampler": sampler}
        for words in commands(PAGE):
            if words[0] == "accelerate" and "$" in "".join(words):
                path, *overrides = (Template(word).substitute(names) for word in words[4:])
                recipe = ImageRecipe.load(ROOT / path, overrides)
                assert recipe.sampler.name == sampler and recipe.training.seed == 2


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes/vision/regularization").glob("*.yaml")), ids=lambda path: path.stem
)
def test_recipes_load(path):
    recipe = ImageRecipe.load(path)
    assert recipe.optimizer.weight_decay == 4e-5 and recipe.model.dropout == 0
