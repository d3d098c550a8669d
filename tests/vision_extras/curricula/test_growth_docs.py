# SPDX-License-Identifier: Apache-2.0
"""The page about growth: its commands, its code and its table."""

from __future__ import annotations

import importlib.util
import shlex

import pytest

from hylora.training.tasks import find_task
from tests import command_line
from tests.pages import ROOT, blocks, commands, page
from vision_extras.models import ModelRecipe
from vision_extras.recipe import ImageRecipe

PAGE = page("docs/guides/growth.md")


def test_commands_name_valid_recipes(tmp_path, monkeypatch):
    trained, *planned = commands(PAGE)
    recipe = ImageRecipe.load(ROOT / trained[-1])
    assert find_task(recipe.to_tree()).recipe is ImageRecipe and recipe.growth.grows
    assert len(planned) == 2
    monkeypatch.chdir(tmp_path)
    for _, *words in planned:
        words[1] = str(ROOT / words[1])
        assert command_line.run(*words).exit_code == 0, shlex.join(words)
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", "plan.png"}


def test_named_networks_are_there():
    for name in ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet18_cifar", "resnet101"):
        assert f"`{name.removeprefix('resnet')}`" in PAGE or f"`{name}`" in PAGE
        ModelRecipe(name=name)


@pytest.mark.slow
def test_the_code_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (code,) = blocks(PAGE, "python")
    exec(compile(code, "growth.md", "exec"), {})
    assert "'sampler.start': 0.39, 'growth.width': 1.0" in capsys.readouterr().out


@pytest.mark.slow
def test_the_table_is_what_the_script_prints():
    spec = importlib.util.spec_from_file_location("draw_growth", ROOT / "docs/draw_growth.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert "\n".join(script.budgets()) in PAGE
    assert f"goes down to {script.plan(0.25, 1, 1).share:.2f};" in PAGE
    assert f"already takes {script.plan(1, 1, 1).share:.2f} of" in PAGE
