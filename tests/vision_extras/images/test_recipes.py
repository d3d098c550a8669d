# SPDX-License-Identifier: Apache-2.0
"""The recipes with the thesis's settings, and what the page says."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PIL

from hylora.training.moment import Moment
from tests.pages import ROOT, blocks, commands, page
from vision_extras.curricula import Plan
from vision_extras.images import SOURCES, AugmentRecipe
from vision_extras.images.randaugment import OPERATIONS
from vision_extras.recipe import ImageRecipe
from vision_extras.run import train

PAGE = "docs/guides/image_data.md"


def shipped(name, *overrides):
    return ImageRecipe.load(ROOT / "recipes/vision" / f"{name}.yaml", overrides)


def plan(recipe, images, processes):
    loop = recipe.training
    return Plan(recipe.sampler, images, 1, loop.global_batch_size, loop.batch_size, loop.seed, processes)


def test_pruning_on_cifar10_is_section_2_5_1():
    recipe = shipped("cifar10/resnet18_pruning")
    optimizer, factor = recipe.optimizer, recipe.optimizer.schedule.build()
    assert recipe.training.epochs == 200 and recipe.pruning.sparsity == 0.9
    assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.1, 0.9, 5e-4)
    assert optimizer.schedule.warmup_steps == 0
    for epoch in (1, 60, 199):
        assert factor(epoch / 200) == pytest.approx(0.97**epoch, rel=1e-3)
    assert plan(recipe, 50_000, 1).steps == 391
    assert recipe.augment == AugmentRecipe(shift=4, flip=0.5)


def test_networks_on_imagenet_have_the_batches_of_table_4_8():
    single, multi = shipped("imagenet/resnet50_ssc_fbs"), shipped("imagenet/resnet50_msc_vbswc")
    same = ("images", "augment", "model", "optimizer", "average")
    assert all(getattr(single, name) == getattr(multi, name) for name in same)
    assert single.training.epochs == multi.training.epochs == 600
    rate = single.optimizer.lr * single.optimizer.schedule.build()(1.0)
    assert rate == pytest.approx(2e-4) and single.average.decay == 1 - 5e-4
    assert plan(single, 1_281_167, 4).batches(0) == [(4 * 256, (224, 224))]
    assert plan(single, 1_281_167, 4).window(Moment(0, 1, 0)).passes(4) == 1
    sampler, loop = multi.sampler, multi.training
    assert loop.batch_size == 512 and sampler.shape == (160, 160)
    assert sampler.pool(599, 600) == [(side, side) for side in (128, 192, 224, 288, 320)]
    assert sampler.pool(0, 600)[0] == (96, 96) and sampler.pool(150, 600) != sampler.pool(300, 600) == sampler.pool(
        599, 600
    )
    assert sampler.batch_size((320, 320), loop.global_batch_size) == 4 * 128


@pytest.mark.slow
def test_the_recipe_of_cifar10_trains_on_a_dataset_like_it(tmp_path):
    features = Features({"img": Image(), "label": ClassLabel(names=list("abcdefghij"))})

    def rows(count):
        draw = np.random.default_rng(count)
        pictures = [PIL.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(count)]
        return Dataset.from_dict({"img": pictures, "label": [n % 10 for n in range(count)]}, features=features)

    DatasetDict(train=rows(40), test=rows(20)).save_to_disk(tmp_path / "data")
    overrides = [
        f"images.path={tmp_path / 'data'}",
        "model.name=resnet8",
        "pruning.at=1",
        "signals.fisher=8",
        "training.epochs=2",
        "training.workers=0",
        "tracking.progress=false",
        f"output.path={tmp_path / 'run'}",
    ]
    result = train(shipped("cifar10/resnet18_pruning", *overrides))
    assert result.steps == 2 and 0 <= result.evaluation["accuracy"] <= 1
    data = json.loads((tmp_path / "run/data.json").read_text())
    assert data["train"] == 40 and data["held_out"] == 20 and data["unreadable"] == []


# The page


def test_the_pages_commands_name_valid_recipes():
    lines = [line for line in commands(page(PAGE)) if "hylora.train" in line]
    for line in lines:
        path, *overrides = line[line.index("hylora.train") + 1 :]
        assert ImageRecipe.load(ROOT / path, overrides).task == "images"
    assert lines


def test_the_pages_sections_are_valid(tmp_path):
    texts = blocks(page(PAGE), "yaml")
    for text in texts:
        path = tmp_path / "recipe.yaml"
        path.write_text(f"task: images\noutput: {{ path: x }}\n{text}")
        assert ImageRecipe.load(path).images.path
    assert len(texts) == 2


def test_the_page_names_every_source_and_every_change():
    text = page(PAGE)
    cells = re.findall(r"^\| (.*?) \|", text, flags=re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)", cell)}
    assert named >= SOURCES.keys() | {field.name for field in dataclasses.fields(AugmentRecipe)} | OPERATIONS.keys()


def test_the_pages_ratios_are_the_committed_measurement():
    results = json.loads((ROOT / "docs/benchmarks/image_feed_cpu.json").read_text())["results"]
    rows = re.findall(r"^\| (\w+), \d+ pixels \| (.*) \|$", page(PAGE), flags=re.MULTILINE)
    measured = {}
    for result in results:
        measured.setdefault(result["case"].split(",")[0], []).append(f"{result['ratio']:.2f}")
    assert {case: cells.split(" | ") for case, cells in rows} == measured
    assert min(result["ratio"] for result in results) >= 0.9
