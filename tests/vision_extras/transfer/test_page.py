# SPDX-License-Identifier: Apache-2.0
"""docs/guides/sparse_transfer.md: its commands follow from each other, and its table is what was measured."""

from __future__ import annotations

import importlib.util
import json

import pytest
import yaml

from hylora.training.recipe_loading import parse_overrides
from tests.pages import ROOT, commands, page
from vision_extras.recipe import ImageRecipe

PAGE = page("docs/guides/sparse_transfer.md")
KNOWN = ("images.channels=1", "images.mean=[0.131]", "images.std=[0.309]")


def test_its_recipes_begin_where_the_first_ends():
    first, *others = (words[-1] for words in commands(PAGE) if "hylora.train" in words)
    left = ImageRecipe.load(ROOT / first)
    for name in others:
        recipe = ImageRecipe.load(ROOT / name, KNOWN)
        assert recipe.model.path == left.output.path and recipe.sampler.side == left.sampler.side
    assert ImageRecipe.load(ROOT / others[0], KNOWN).model.train == "head"


def test_its_table_is_what_was_measured():
    results = json.loads((ROOT / "docs/benchmarks/sparse_backbone_cpu.json").read_text())["results"]
    names = {"resnet18_cifar": "ResNet-18", "resnet20": "ResNet-20", "resnet50": "ResNet-50"}
    for name, title in names.items():
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| {title}"))
        of = [result for result in results if result["network"] == name]
        figures = [f"{result['dense_over_products']:.2f}" for result in of] + [f"{of[1]['dense_over_cached']:.0f}"]
        assert row.strip("| ").split(" | ")[1:] == figures


def test_the_studys_recipes_can_be_made():
    study = yaml.safe_load(page("studies/vision/transfer.yaml"))
    for overrides in study["settings"].values():
        ImageRecipe.from_tree(parse_overrides({**study["upstream"], "output": {"path": "unused"}}, overrides))
    for task in study["tasks"].values():
        for mode in study["modes"].values():
            tree = {**study["downstream"], "output": {"path": "unused"}}
            ImageRecipe.from_tree(parse_overrides(tree, [*KNOWN, "model.path=unused", *task, *mode]))


def test_the_study_tells_means_over_seeds_and_tasks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "studies/vision")
    spec = importlib.util.spec_from_file_location("transfer_study", ROOT / "studies/vision/transfer.py")
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    accuracies = {
        ("dense", "linear"): 0.6,
        ("dense", "full"): 0.8,
        ("AC/DC 0.9", "linear"): 0.7,
        ("AC/DC 0.9", "full"): 0.7,
    }
    runs = [
        {"setting": setting, "mode": mode, "task": task, "seed": seed, "accuracy": accuracy + shift}
        for (setting, mode), accuracy in accuracies.items()
        for task in ("one", "other")
        for seed, shift in enumerate((-0.02, 0.02))
    ]
    networks = [
        {"setting": setting, "seed": 0, "accuracy": 0.9, "filters": 0.05} for setting in ("dense", "AC/DC 0.9")
    ]
    told = study.tell({"runs": runs, "networks": networks}).splitlines()
    cells = [cell.strip() for cell in told[3].strip("|").split("|")]
    assert cells == ["AC/DC 0.9", "90.0 %", "5.0 %", "70.0 %", "70.0 %", "-25.0 % (0.0)", "70.0 %", "70.0 %",
                     "+50.0 % (0.0)"]  # fmt: skip
    assert told[-1] == "Difficulty of tasks: one +20.0 %, other +20.0 %."
    with pytest.raises(ValueError, match="must be of the same"):
        study.mean_increase({}, {})
