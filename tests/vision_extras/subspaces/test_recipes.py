# SPDX-License-Identifier: Apache-2.0
"""The shipped recipes of subspaces: they load with all that their comments offer, and have the thesis's settings."""

from __future__ import annotations

import functools
import re
import shlex

import pytest
from accelerate import Accelerator

from hylora.training.recipe import RecipeError
from tests.pages import ROOT
from vision_extras.curricula import Plan
from vision_extras.images import load_split
from vision_extras.recipe import ImageRecipe
from vision_extras.run import make_task

RECIPES = {str(path.relative_to(ROOT / "recipes/vision")): path for path in (ROOT / "recipes").rglob("lcs_*.yaml")}
EMBEDDED = sorted(name for name in RECIPES if "/" not in name)
# Images to learn from, epochs and reference batch of section 3.5.1, and of Touvron et al. (2021) for transformers.
SCALE = {
    "cifar10/lcs_sparsity.yaml": (50_000, 200, 128),
    "cifar10/lcs_width.yaml": (50_000, 200, 128),
    "cifar10/lcs_bits.yaml": (50_000, 200, 128),
    "imagenet/lcs_sparsity.yaml": (1_281_167, 90, 128),
    "imagenet/lcs_width.yaml": (1_281_167, 90, 128),
    "imagenet/lcs_bits.yaml": (1_281_167, 90, 128),
    "imagenet/lcs_transformer.yaml": (1_281_167, 300, 1024),
}


def offered(path):
    """What each line of the comment at the head says to set, by its name there."""
    lines = re.findall(r"^#   (\S.*?)  +(.*)$", path.read_text(), flags=re.MULTILINE)
    return {name: shlex.split(overrides) for name, overrides in lines}


@pytest.mark.parametrize("name", RECIPES)
def test_what_its_comment_offers_can_be_had(name):
    plain, found = ImageRecipe.load(RECIPES[name]), offered(RECIPES[name])
    assert len(found) >= 2
    assert plain.subspace.kind == ("point" if "transformer" in name else "line")
    for overrides in found.values():
        made = ImageRecipe.load(RECIPES[name], overrides)
        assert made != plain and made.subspace.compression == plain.subspace.compression
        if "subspace.kind=point" in overrides:
            assert made.subspace.kind == "point"


def settings(name, offer=None):
    return ImageRecipe.load(RECIPES[name], offered(RECIPES[name])[offer] if offer else ())


@pytest.mark.parametrize("name", SCALE)
def test_recipes_have_the_epochs_and_the_rates_of_the_thesis(name):
    images, epochs, batch = SCALE[name]
    recipe, transformer = settings(name), "transformer" in name
    loop, optimizer, schedule = recipe.training, recipe.optimizer, recipe.optimizer.schedule
    assert (loop.epochs, loop.global_batch_size) == (epochs, batch)
    rate = 1e-3 if transformer else 0.025 if name == "cifar10/lcs_bits.yaml" else 0.1
    assert (optimizer.name, optimizer.lr) == ("adamw" if transformer else "sgd", rate)
    assert optimizer.weight_decay == (0.05 if transformer else 5e-4)
    assert (schedule.name, schedule.final) == ("cosine", 0.01 if transformer else 0.0)
    plan = Plan(recipe.sampler, images, epochs, batch, loop.batch_size, loop.seed)
    assert schedule.warmup_steps == 5 * plan.steps / epochs
    assert recipe.subspace.warmup == 0.8
    if "VGG19" in offered(RECIPES[name]):
        large = settings(name, "VGG19")
        assert (large.model.name, large.training.global_batch_size) == ("vgg19", 256)
        assert large.optimizer.schedule.warmup_steps == 5 * -(-images // 256)


def test_subspaces_have_the_levels_and_the_norms_of_the_thesis():
    for folder in ("cifar10", "imagenet"):
        wide, high = (settings(f"{folder}/lcs_sparsity.yaml", offer).subspace for offer in (None, "high sparsities"))
        assert [(made.weakest, made.strongest) for made in (wide, high)] == [(0.0, 0.975), (0.95, 0.995)]
        assert (wide.norm, wide.groups, wide.bias, wide.curriculum) == ("group", 32, 0.5, "anneal")
        assert settings(f"{folder}/lcs_sparsity.yaml", "a point").subspace.curriculum == "hold"
        width = settings(f"{folder}/lcs_width.yaml").subspace
        assert (width.weakest, width.strongest, width.samples, width.norm) == (1.0, 0.25, 4, "instance")
        assert settings(f"{folder}/lcs_width.yaml", "Discrete").subspace.norm == "keep"
        bits = settings(f"{folder}/lcs_bits.yaml").subspace
        assert (bits.weakest, bits.strongest, bits.norm) == (8, 3, "group")
    transformer = settings("imagenet/lcs_transformer.yaml", "high sparsities").subspace
    assert (transformer.weakest, transformer.strongest, transformer.warmup) == (0.8, 0.95, 0.65)
    assert transformer.curriculum == "anneal"
    assert settings("imagenet/lcs_sparsity.yaml", "MobileNetV2").subspace.groups == 8
    assert settings("imagenet/lcs_width.yaml", "MobileNetV2").subspace.strongest == 0.55
    for name in ("sparsity", "width"):
        optimizer = settings(f"imagenet/lcs_{name}.yaml", "its optimizer").optimizer
        assert (optimizer.lr, optimizer.weight_decay) == (0.045, 4e-5)


@functools.cache
def split_of(images):
    return load_split(images)


@pytest.mark.parametrize("name", EMBEDDED)
def test_recipes_on_embedded_images_can_be_made(name, monkeypatch):
    monkeypatch.setattr("vision_extras.run.load_split", split_of)
    for overrides in ([], *offered(RECIPES[name]).values()):
        recipe = ImageRecipe.load(RECIPES[name], overrides)
        task = make_task(recipe, Accelerator(cpu=True))
        assert task.model.network.is_line == (recipe.subspace.kind == "line")
        assert task.steps == recipe.training.epochs * -(-len(split_of(recipe.images).train) // 64)


@pytest.mark.parametrize("sides", ["sampler.side=32", "evaluation.sides=[64,32]"])
def test_images_too_small_for_norms_of_each_channel_are_refused(sides, monkeypatch):
    """A ResNet-18 leaves one position of 32x32 pixels."""
    monkeypatch.setattr("vision_extras.run.load_split", split_of)
    settings = ["model.name=resnet18", "model.width=0.125", "images.name=digits", "sampler.side=64", sides]
    with pytest.raises(RecipeError, match="of 1x32x32: .*; norms of each channel need several positions"):
        make_task(ImageRecipe.load(RECIPES["lcs_width.yaml"], settings), Accelerator(cpu=True))
