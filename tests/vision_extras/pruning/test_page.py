# SPDX-License-Identifier: Apache-2.0
"""The page about when to prune: its commands name what is there, and its recipe's sweeps load and train."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import pytest

from hylora.training.recipe import RecipeError
from tests.pages import ROOT, commands, page
from vision_extras.recipe import ImageRecipe
from vision_extras.run import train

COMMANDS = commands(page("docs/guides/pruning_timing.md"))
RECIPE = ROOT / "recipes/vision/pruning/mnist.yaml"


def overrides_of(words):
    return [word for word in words if "=" in word]


def test_its_recipes_load():
    runs = [words for words in COMMANDS if "hylora.train" in words]
    recipes = [ImageRecipe.load(ROOT / words[4], overrides_of(words)) for words in runs]
    assert [recipe.pruning.at for recipe in recipes] == [9, "detect"]
    assert recipes[0].output.path != recipes[1].output.path


def test_its_scripts_are_there():
    scripts = [words[1] for words in COMMANDS if words[0] == "python"]
    assert len(scripts) == 4 and all((ROOT / script).is_file() for script in scripts)


def test_the_sweeps_of_the_recipe_are_those_of_the_driver():
    """Each override that the recipe's comment lists is one that the driver sets, or what the recipe has."""
    listed = [line.split() for line in RECIPE.read_text().splitlines() if line.startswith("#   ")]
    keys = {word.split("=")[0] for words in listed for word in words if "=" in word}
    driver = (ROOT / "studies/pruning/sweep.py").read_text()
    assert len(keys) == 7 and all(f"{key}=" in driver for key in keys)


@pytest.mark.slow
def test_its_first_command_trains(tmp_path):
    """Four of its epochs, on smaller images."""
    words = next(words for words in COMMANDS if "hylora.train" in words)
    small = ["training.epochs=4", "pruning.at=1", "images.name=digits", "sampler.side=8", f"output.path={tmp_path}"]
    recipe = ImageRecipe.load(ROOT / words[4], [*overrides_of(words), *small])
    assert train(recipe).evaluation["accuracy"] > 0.1
    assert json.loads((tmp_path / "results.json").read_text())["sparsity"] == pytest.approx(0.9, abs=1e-4)


def test_what_the_picture_shows_is_drawn(tmp_path):
    """From results such as the driver writes, into the table."""
    epochs = [
        {"epoch": e, "accuracy": 0.8 + 0.03 * e, "fisher": float(f), "kl_uniform": float(e)}
        for e, f in zip(range(1, 4), (1, 3, 2), strict=True)
    ]
    dense = [
        {"setting": "d", "seed": s, "detected": {"fisher": 3, "kl_uniform": None}, "epochs": epochs} for s in (0, 1)
    ]
    pruned = [
        {"setting": "p", "dense": "d", "seed": seed, "at": at, "accuracy": 0.9 - 0.1 * abs(at - 2) + 0.01 * seed}
        for seed, at in itertools.product((0, 1), (0, 2, 3))
    ]
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({"dense": dense, "pruned": pruned}))
    script = ROOT / "docs/draw_pruning.py"
    call = [sys.executable, str(script), str(path), str(tmp_path / "drawn.png")]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "| p | 89.0 | 70.5 ± 0.7 | 90.5 ± 0.7 | 2 | 80.5 | 2 | 3/3 | None/None |"
    assert (tmp_path / "drawn.png").stat().st_size < 100_000


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pruning.sparsity=1"], "pruning.sparsity=1.0 must be at least 0 and below 1"),
        (["pruning.sparsity=0.9", "pruning.at=31"], "pruning.at=31 is after the last of training.epochs=30"),
        (["pruning.at=-1"], "pruning.at=-1 must be at least 0"),
        (["pruning.at=soon"], "pruning.at='soon'"),
        (
            ["pruning.sparsity=0.9", "pruning.at=detect", "signals.fisher=0"],
            "set signals.fisher to a number of images",
        ),
        (
            [
                "pruning.sparsity=0.9",
                "pruning.at=detect",
                "pruning.detector.signal=kl_uniform",
                "signals.kl_uniform=false",
            ],
            "set signals.kl_uniform to true",
        ),
        (["pruning.sparsity=0.9", "pruning.criterion=fisher", "signals.fisher=0"], "needs images to measure on"),
        (["signals.draws=1"], "signals.draws=1 must be at least 2"),
        (["pruning.detector.fall=1"], "pruning.detector.fall=1.0 must be at least 0 and below 1"),
    ],
)
def test_what_cannot_work_is_refused(overrides, message):
    with pytest.raises(RecipeError) as caught:
        ImageRecipe.load(RECIPE, overrides)
    assert message in str(caught.value)
