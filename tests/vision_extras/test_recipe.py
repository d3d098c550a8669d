# SPDX-License-Identifier: Apache-2.0
"""Recipes of images: what is refused, and the ones that are shipped."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from hylora.training.recipe import Recipe, RecipeError
from hylora.training.recipe_loading import read_yaml
from hylora.training.tasks import GROUP, TaskKind
from tests.pages import ROOT
from tests.vision_extras import small

REFUSED = {
    "an unknown source": ({"images.name": "digit"}, "images.name='digit' must be digits"),
    "no images to learn from": ({"images.held_out": 1.0}, "images.held_out=1.0 must be at least 0 and below 1"),
    "no images to evaluate on": (
        {"images.held_out": 0.0, "evaluation.every": 1},
        "evaluation.every=1 has nothing to evaluate on; set images.held_out",
    ),
    "a negative shift": ({"augment.shift": -1}, "augment.shift=-1 must be at least 0"),
    "a schedule that shrinks": ({"sampler.start": 1.5}, "sampler.start=1.5 must be above 0 and at most 1"),
    "resolutions backwards": (
        {"sampler.smallest": 12, "sampler.largest": 8},
        "sampler.smallest=12 must be at most largest=8",
    ),
    "no images in an update": (
        {"training.global_batch_size": 0},
        "training.global_batch_size=0 must be at least 1",
    ),
    "no epoch": ({"training.epochs": 0}, "training.epochs=0 must be at least 1"),
    "updates by number": ({"training.steps": 100}, "training.steps=100 must be null"),
    "a network that shrinks": ({"growth.width": 1.5}, "growth.width=1.5 must be above 0 and at most 1"),
    "growth of a network that cannot": ({"model": {"name": "vgg11"}}, "growth.width=0.5 and growth.depth=0.4 need a"),
    "everything pruned": ({"pruning.sparsity": 1.0}, "pruning.sparsity=1.0 must be at least 0 and below 1"),
    "less than nothing pruned": ({"pruning.sparsity": -0.1}, "pruning.sparsity=-0.1 must be at least 0"),
    "pruning after the end": ({"pruning.at": 5}, "pruning.at=5 is after the last of training.epochs=4"),
    "pruning before growth ends": (
        {"pruning.at": 2},
        "pruning.at=2 is before the end of an epoch with the whole network, and what grows later would stay; choose 3",
    ),
    "pruning what is never whole": (
        {"growth.until": 1.0, "pruning.at": 4},
        "pruning.at=4 is before the end of an epoch with the whole network, and what grows later would stay; lower",
    ),
    "an unknown network": ({"model.name": "resnet21"}, "model.name='resnet21' must be"),
    "a negative radius": ({"sharpness.radius": -1.0}, "sharpness.radius=-1.0 must be at least 0"),
    "another task": ({"task": "image"}, "task='image' must be images"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_recipes_are_refused(case):
    settings, message = REFUSED[case]
    with pytest.raises(RecipeError) as error:
        small.recipe(**settings)
    assert str(error.value).startswith(message)


def test_resolutions_below_the_networks_stride_are_refused_before_images_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("vision_extras.run.load_split", lambda recipe: pytest.fail("images were read"))
    settings = {"sampler": {"name": "ssc_fbs", "side": 2}}
    with pytest.raises(RecipeError, match="sampler.*2x2.*resnet20|sampler.*2.*4"):
        small.train(tmp_path, **settings)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_images_whose_package_is_missing_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(RecipeError, match=r"images.name='digits' needs scikit-learn.*pip install 'hylora\[vision\]'"):
        small.train(tmp_path)


def test_the_reference_side_is_the_images_own():
    assert small.recipe().sampler.shape == (8, 8)
    assert small.recipe(**{"sampler.side": [6, 4]}).sampler.shape == (6, 4)


@pytest.mark.parametrize(("name", "lr"), [("sgd", 0.1), ("adamw", 1e-3)])
def test_each_optimizer_has_a_rate_of_its_own(name, lr):
    assert small.recipe(optimizer={"name": name}).optimizer.lr == lr


def test_tasks_are_registered_as_the_project_declares():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in ("detection", "images", "mavil", "sounds"):
        kind = EntryPoint(name, project["entry-points"][GROUP][name], GROUP).load()
        assert isinstance(kind, TaskKind) and issubclass(kind.recipe, Recipe)
        assert "here" in kind.advise(Path("here"))


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "recipes/vision").rglob("*.yaml")),
    ids=lambda path: str(path.relative_to(ROOT / "recipes/vision").with_suffix("")),
)
def test_shipped_recipes_load(path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name = read_yaml(path)["task"]
    recipe = EntryPoint(name, project["entry-points"][GROUP][name], GROUP).load().recipe
    # What another run has learned from is not there to be asked.
    known = ("images.channels=1", "images.mean=[0.1]", "images.std=[0.3]") if path.parent.name == "transfer" else ()
    loaded = recipe.load(path, known)
    assert loaded.task == name
    assert path.parent.name in loaded.output.path or path.parent.name == "vision"
