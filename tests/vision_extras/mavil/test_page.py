# SPDX-License-Identifier: Apache-2.0
"""The page about masked learners: its code runs, its recipes are there, and its figures are those of the files."""

from __future__ import annotations

import json
import runpy

import torch

from tests.pages import ROOT, blocks, commands, page
from vision_extras.mavil import MavilForPreTraining
from vision_extras.mavil.operations import MODULES
from vision_extras.mavil.recipe import MavilRecipe

PAGE = page("docs/guides/masked_learners.md")
# What comes after, the study tells.
TABLES = PAGE.partition("## What held")[0]
ROWS = [line.strip("| ").split(" | ") for line in TABLES.splitlines() if line.startswith("|")]


def measured(name):
    return json.loads((ROOT / "docs/benchmarks" / name).read_text())


def test_its_code_runs(tmp_path, monkeypatch):
    folder = tmp_path / "outputs/mavil_digits"
    recipe = MavilRecipe.load(ROOT / "recipes/vision/mavil_digits.yaml", ["clips.count=50"])
    MavilForPreTraining(recipe.model.config(recipe.clips.bands)).save_pretrained(folder)
    recipe.save(folder / "recipe.yaml")
    monkeypatch.chdir(tmp_path)
    (code,), scope = blocks(PAGE, "python"), {}
    exec(compile(code, "docs/guides/masked_learners.md", "exec"), scope)
    heard, seen = scope["spectrograms"], scope["videos"]
    assert heard.shape == (8, 128, 128) and seen.shape == (8, 3, 8, 32, 32)
    # A fifth of them is as it was.
    same = (heard == scope["batch"]["input_values"]).float().mean(), (seen == scope["batch"]["frames"]).float().mean()
    torch.testing.assert_close(torch.stack(same), torch.full((2,), 0.2), atol=0.01, rtol=0)


def test_its_settings_are_the_rows_of_the_table():
    path = next(words[3] for words in commands(PAGE) if "hylora.train" in words)
    settings = {row[0]: row[1].strip("`").split() for row in ROWS if len(row) == 2 and "mask." in row[1]}
    found = {name: MavilRecipe.load(ROOT / path, given) for name, given in settings.items()}
    designs = {
        name: (each.model.diffusion, each.model.video_attention, each.mask.first, each.mask.last, each.mask.adaptive)
        for name, each in found.items()
    }
    assert designs == {
        "MAViL": (False, "self", 0.8, 0.8, False),
        "R1": (True, "self", 0.8, 0.8, False),
        "R2": (True, "cross", 0.8, 0.8, False),
        "R3": (True, "cross", 0.9, 0.8, False),
        "AudioMAE": (False, "cross", 0.8, 0.8, False),
    }


def test_its_figures_are_those_of_the_files():
    counted = measured("mavil_flops.json")["rows"]
    columns = (*MODULES, "total")
    expected = [
        [name, *(_pair(row["over_mavil"][key], row["thesis"][key]) for key in columns), f"{row['updates']:.2f}"]
        for name, row in counted.items()
        if name != "MAViL"
    ]
    assert [row for row in ROWS if len(row) == 8 and row[0] in counted] == expected
    timed = measured("mavil_cost_cpu.json")["over_mavil"]
    expected = [
        [name, *(f"{timed[name][key]:.2f}" for key in ("median", "counted"))] for name in counted if name != "MAViL"
    ]
    assert [row for row in ROWS if len(row) == 3 and row[0] in counted] == expected


def _pair(counted, thesis):
    return f"{counted:.2f}" + ("" if thesis is None else f" / {thesis:.2f}")


def test_its_study_is_told_as_the_gathered_file_has_it(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "studies/vision")
    tell = runpy.run_path(ROOT / "studies/vision/mavil.py")["tell"]
    assert tell(json.loads((ROOT / "studies/vision/results/mavil.json").read_text())) in PAGE
