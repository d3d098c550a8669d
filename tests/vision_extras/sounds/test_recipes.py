# SPDX-License-Identifier: Apache-2.0
"""The shipped recipes are table 5.6, and the study of ESC-50 is a cross validation."""

from __future__ import annotations

import importlib

import pytest
import yaml

from tests.pages import ROOT
from vision_extras.sounds.recipe import SoundsRecipe

# Rate, warm-up, epochs, batch, masks in time and frequency, mixup, cutmix, loss, mean, deviation, steps.
TABLE = {
    "as20k": (2.5e-4, 4, 60, 64, 192, 48, 0.5, 1.0, "bce", -4.268, 4.569, 1024),
    "vggsound": (2e-4, 1, 60, 256, 192, 48, 0.5, 1.0, "bce", -5.189, 3.260, 1024),
    "esc50": (2.5e-4, 4, 100, 64, 96, 24, 0.0, 0.0, "ce", -6.627, 5.359, 512),
    "speech_commands": (1e-3, 4, 60, 256, 48, 48, 0.0, 0.0, "ce", -6.702, 5.448, 128),
}


@pytest.mark.parametrize("name", TABLE)
def test_recipes_are_the_thesiss(name):
    recipe = SoundsRecipe.load(ROOT / f"recipes/vision/sounds/{name}.yaml")
    optimizer, augment, clips = recipe.optimizer, recipe.augment, recipe.clips
    training, schedule = recipe.training, optimizer.schedule
    found = (optimizer.lr, schedule.warmup_epochs, training.epochs, training.global_batch_size)
    found += (augment.time_mask, augment.frequency_mask, augment.mixup, augment.cutmix, recipe.loss)
    assert (*found, clips.mean, clips.std, clips.steps) == TABLE[name]
    assert (clips.unreadable == "trust") == (name in ("as20k", "vggsound"))
    assert (augment.noise > 0) == (name == "vggsound")
    assert (optimizer.name, optimizer.betas, optimizer.weight_decay) == ("adamw", (0.9, 0.95), 1e-4)
    assert (optimizer.layer_decay, recipe.model.drop_path) == (0.75, 0.1)
    assert schedule.name == "cosine" and schedule.final * optimizer.lr == pytest.approx(1e-6)
    assert (clips.bands, clips.rate) == (128, 16000)


def test_each_fold_of_esc50_is_held_out_once():
    study = yaml.safe_load((ROOT / "studies/vision/esc50.yaml").read_text())
    settings = [[*study["set"], *setting["set"]] for setting in study["settings"].values()]
    recipes = [SoundsRecipe.load(ROOT / study["recipe"], overrides) for overrides in settings]
    assert [recipe.clips.fold for recipe in recipes] == [1, 2, 3, 4, 5]


def test_folds_are_averaged_before_seeds(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "studies/vision")
    telling = importlib.import_module("tell_folds")
    accuracies = {("fold 1", 0): 0.90, ("fold 2", 0): 0.80, ("fold 1", 1): 0.92, ("fold 2", 1): 0.86}
    runs = [
        {"setting": setting, "seed": seed, "evaluation": {"accuracy": accuracy}}
        for (setting, seed), accuracy in accuracies.items()
    ]
    # 85 and 89 %, whose mean is 87 and whose deviation is the root of 8.
    assert list(telling.folds_table({"esc50": runs}))[-1] == "| esc50 | 2 | 2 | 87.00 ± 2.83 |"
    with pytest.raises(SystemExit, match="esc50 has 3 runs, and not one of each of 2 folds"):
        list(telling.folds_table({"esc50": runs[:3]}))
