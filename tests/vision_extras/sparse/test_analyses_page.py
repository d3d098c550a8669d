# SPDX-License-Identifier: Apache-2.0
"""docs/guides/sparse_analyses.md: its commands do what they say, and its table of bytes is what its code prints."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from hylora import train
from hylora_cli import build_app
from tests.pages import ROOT, blocks, commands, page
from vision_extras.commands import COMMANDS as IMAGES
from vision_extras.recipe import ImageRecipe

PAGE = page("docs/guides/sparse_analyses.md")
SHORT = ["images.held_out=0.8", "training.global_batch_size=64", "training.batch_size=64", "tracking.progress=false"]
SHORT += ["one_shot.passes=1", *(f"sparse.{name}=1" for name in ("warmup", "sparse", "dense", "last_dense"))]
SHORT += ["sparse.last_sparse=1", "training.epochs=5", "evaluation.every=0"]


@pytest.mark.slow
def test_its_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for words in commands(PAGE):
        if words[0] == "accelerate":
            arguments = words[words.index("hylora.train") + 1 :]
            assert train.main([*arguments, *SHORT]) == 0
        elif words[0] == "hylora":
            arguments = words[2:]
            done = CliRunner().invoke(build_app(arguments, IMAGES), arguments)
            assert done.exception is None, (words, done.output)
    levels = json.loads((tmp_path / "outputs/digits_one_shot/levels.json").read_text())["evaluation"]["one_shot"]
    assert list(levels) == ["0.5", "0.8", "0.9", "2:4", "4bit"]
    pair = json.loads((tmp_path / "outputs/acdc/pair.json").read_text())["evaluation"]
    dense = json.loads((tmp_path / "outputs/acdc/results.json").read_text())["dense"]
    expected = {**pair["dense"], "agreement": pair["agreement"], "cross_entropy": pair["cross_entropy"]}
    assert dense == {name: pytest.approx(expected[name], rel=1e-3) for name in dense} and len(dense) == 4
    memorised = json.loads((tmp_path / "outputs/memorised/results.json").read_text())["evaluation"]
    assert {"random_label_accuracy", "true_label_accuracy"} <= memorised.keys()


def test_its_python_runs_and_prints_its_table(capsys):
    for code in blocks(PAGE, "python"):
        exec(compile(code, "page", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 7
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and line.endswith("x |")]
    assert [row.split(" | ", 4)[4].removesuffix(" |") for row in rows] == printed[1:]


def test_the_study_has_recipes_that_load():
    study = yaml.safe_load((ROOT / "studies/vision/memorised.yaml").read_text())
    for setting in study["settings"].values():
        recipe = ImageRecipe.load(ROOT / study["recipe"], [*study["set"], *setting["set"]])
        assert recipe.images.random_labels == 200
    assert sum("augmented" in name for name in study["settings"]) == 5 and len(study["settings"]) == 11
