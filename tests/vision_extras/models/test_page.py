# SPDX-License-Identifier: Apache-2.0
"""The page about networks: its commands, its code and its table."""

from __future__ import annotations

import re

import pytest
import torch
import yaml

from tests.pages import ROOT, blocks, commands, page
from vision_extras.detection.detector import build_detector
from vision_extras.detection.recipe import DetectionRecipe
from vision_extras.models import ModelRecipe, build_network
from vision_extras.planned import refuse_sides
from vision_extras.recipe import ImageRecipe

PAGE = "docs/guides/image_models.md"
DETECTION = sorted((ROOT / "recipes/vision/detection").glob("*.yaml"))
ROW = re.compile(r"^\| .* \| `(.*)` \| ([\d.]+) \| (\d+) \| (\d+) \|$", flags=re.MULTILINE)


@pytest.mark.slow
def test_the_table_is_what_the_networks_are():
    rows = ROW.findall(page(PAGE))
    assert len(rows) == 20
    for how, millions, stride, multiple in rows:
        config = yaml.safe_load(how)
        recipe = (
            ModelRecipe(name=config) if isinstance(config, str) else ModelRecipe(name="transformers", config=config)
        )
        network = build_network(recipe, 3, 1000, None).eval()
        parameters = sum(parameter.numel() for parameter in network.parameters())
        assert f"{parameters / 1e6:.1f}" == millions, how
        assert (network.stride, getattr(network, "multiple", 1)) == (int(stride), int(multiple)), how
        for side in (int(stride), 2 * int(stride)):
            assert network(torch.empty(1, 3, side, side, device="meta")).shape == (1, 1000), (how, side)


def test_its_code_runs(tmp_path):
    (code,) = blocks(page(PAGE), "python")
    names: dict = {}
    exec(code.replace("outputs/own", str(tmp_path)), names)
    assert names["network"](torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_its_commands_are_recipes():
    lines = [words for words in commands(page(PAGE)) if "hylora.train" in words]
    kinds = [ImageRecipe, DetectionRecipe, DetectionRecipe]
    for words, kind in zip(lines, kinds, strict=True):
        file, *overrides = words[words.index("hylora.train") + 1 :]
        kind.load(ROOT / file, overrides)


def test_its_sections_are_recipes_of_networks():
    models = [yaml.safe_load(block)["model"] for block in blocks(page(PAGE), "yaml")]
    assert [model["name"] for model in models] == ["transformers", "transformers", "timm", "my_package.networks:make"]
    for model in models:
        ModelRecipe(**model)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes/vision/detection").glob("*.yaml")), ids=lambda path: path.stem
)
def test_detectors_take_the_resolutions_of_their_recipes(path):
    recipe = DetectionRecipe.load(path)
    refuse_sides(recipe, build_detector(recipe.model, recipe.objects.channels, 80, None))
