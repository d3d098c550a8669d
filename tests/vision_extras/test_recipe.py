# SPDX-License-Identifier: Apache-2.0
"""Recipes of images: what is refused, and the ones that are shipped."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import EntryPoint

import pytest

from hylora.training.feed import Share
from hylora.training.moment import Moment
from hylora.training.recipe import Recipe, RecipeError
from hylora.training.tasks import GROUP, TaskKind, find_task
from tests.pages import ROOT, commands, page
from tests.vision_extras import small
from vision_extras.curriculum import Curriculum
from vision_extras.recipe import ImageRecipe

REFUSED = {
    "a resolution below the stride": (
        {"resolution.start": 1},
        "resolution.start=1 must be a positive multiple of the network's stride, 2",
    ),
    "a resolution between strides": ({"resolution.final": 7}, "resolution.final=7 must be a positive multiple"),
    "no resolution": ({"resolution.start": 0}, "resolution.start=0 must be a positive multiple"),
    "a resolution that shrinks": (
        {"resolution.start": 16},
        "resolution.start=16 must not be above resolution.final=8",
    ),
    "a resolution that is never reached": ({"resolution.until": 1.5}, r"resolution.until=1.5 must be in \(0, 1\]"),
    "an unknown data set": (
        {"images.name": "digit"},
        "images.name='digit' must be digits | mnist; the nearest is digits",
    ),
    "no images to learn from": ({"images.held_out": 1.0}, "images.held_out=1.0 must be at least 0 and below 1"),
    "no images to evaluate on": (
        {"images.held_out": 0.0, "evaluation.every": 1},
        "evaluation.every=1 has nothing to evaluate on; set images.held_out",
    ),
    "a negative shift": ({"images.shift": -1}, "images.shift=-1 must be at least 0"),
    "everything pruned": ({"pruning.sparsity": 1.0}, "pruning.sparsity=1.0 must be at least 0 and below 1"),
    "less than nothing pruned": ({"pruning.sparsity": -0.1}, "pruning.sparsity=-0.1 must be at least 0"),
    "pruning that ends first": ({"pruning.end": 0.1}, "pruning.begin=0.25 must come before end=0.1"),
    "growth after the end": (
        {"growth.at": [0.5, 1.0]},
        r"growth.at=\[0.5, 1.0\] must be ascending points of progress",
    ),
    "growth backwards": ({"growth.at": [0.5, 0.2]}, r"growth.at=\[0.5, 0.2\] must be ascending"),
    "an odd width": ({"model.width": 12}, "model.width=12 must be a positive multiple of 8"),
    "no network": ({"model.blocks": 0}, "model.blocks=0 must be at least 1"),
    "a negative radius": ({"sharpness.radius": -1.0}, "sharpness.radius=-1.0 must be at least 0"),
    "another task": ({"task": "image"}, "task='image' must be images"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_recipes_are_refused(case):
    settings, message = REFUSED[case]
    with pytest.raises(RecipeError, match=message.replace("|", r"\|")):
        small.recipe(**settings)


def test_images_whose_package_is_missing_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(RecipeError, match=r"images.name='digits' needs scikit-learn.*pip install 'hylora\[vision\]'"):
        small.train(tmp_path)


def test_a_recipe_survives_yaml(tmp_path):
    recipe = small.recipe()
    recipe.save(tmp_path / "recipe.yaml")
    assert ImageRecipe.load(tmp_path / "recipe.yaml") == recipe


def moments(steps):
    return [Moment(step, steps, 0) for step in range(steps)]


def test_windows_hold_the_pixels_of_a_whole_batch():
    curriculum = Curriculum(small.recipe(**{"training.steps": 40, "resolution.final": 16}))
    windows = [curriculum.window(moment) for moment in moments(40)]
    sides = [window.shape for window in windows]
    assert sides == sorted(sides) and set(sides) == set(range(4, 17, 2)) and sides[20:] == [16] * 20
    for window in windows:
        whole = 8 * 16**2
        assert whole - window.shape**2 < window.rows * window.shape**2 <= whole
        assert (window.rows_per_pass - 1) * window.shape**2 < whole / 2


@pytest.mark.parametrize(("batch_size", "processes"), [(1, 1), (1, 2), (1, 8), (2, 4), (4, 2), (8, 1)])
def test_windows_can_be_shared_by_every_number_of_processes_that_a_batch_can(batch_size, processes):
    settings = {"training.steps": 40, "training.batch_size": batch_size, "resolution.final": 16}
    curriculum = Curriculum(small.recipe(**settings))
    for moment in moments(40):
        parts = [curriculum.window(moment).parts(Share(rank, processes)) for rank in range(processes)]
        assert all(rows for part in parts for rows in part) and len({len(part) for part in parts}) == 1


def test_without_a_curriculum_nothing_changes():
    plain = {"resolution.start": 8, "growth.at": [], "pruning.sparsity": 0.0}
    curriculum = Curriculum(small.recipe(**plain))
    seen = {(curriculum.window(m), curriculum.blocks(m), curriculum.sparsity(m)) for m in moments(20)}
    assert len(seen) == 1


def test_what_is_scheduled_meets_its_end_points():
    curriculum = Curriculum(small.recipe(**{"pruning.begin": 0.0, "pruning.end": 1.0, "growth.at": [0.25, 0.5]}))
    assert [curriculum.blocks(moment) for moment in moments(8)] == [1, 1, 2, 2, 3, 3, 3, 3]
    assert [curriculum.sparsity(moment) for moment in moments(4)] == [0.125, 0.25, 0.375, 0.5]


@pytest.mark.parametrize(
    ("settings", "depends"),
    [
        ({}, False),
        ({"resolution.start": 4}, True),
        ({"growth.at": [0.5]}, True),
        ({"pruning.sparsity": 0.5}, True),
        ({"optimizer.schedule.name": "cosine"}, True),
    ],
)
def test_a_run_with_a_curriculum_may_not_be_made_longer(settings, depends):
    plain = {"resolution.start": 8, "growth.at": [], "pruning.sparsity": 0.0, "optimizer.schedule.name": "constant"}
    assert small.recipe(**{**plain, **settings}).depends_on_steps() is depends


def test_the_task_is_registered_as_the_project_declares():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    kind = EntryPoint("images", project["entry-points"][GROUP]["images"], GROUP).load()
    assert isinstance(kind, TaskKind) and kind.recipe is ImageRecipe and issubclass(kind.recipe, Recipe)
    assert kind.advice.format(folder="here")
    extras = {line.split(">")[0] for line in project["optional-dependencies"]["vision"]}
    assert extras == {"scikit-learn", "mlxtend", "scikit-image", "pillow"}


@pytest.mark.parametrize("path", sorted((ROOT / "recipes/vision").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_load(path):
    assert ImageRecipe.load(path).task == "images"


def test_the_pages_command_names_a_valid_recipe():
    words = [line for line in commands(page("docs/guides/images.md")) if "hylora.train" in line]
    for line in words:
        path, *overrides = line[line.index("hylora.train") + 1 :]
        assert find_task(ImageRecipe.load(ROOT / path, overrides).to_tree()).recipe is ImageRecipe
    assert words
