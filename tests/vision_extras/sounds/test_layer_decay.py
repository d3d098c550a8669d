# SPDX-License-Identifier: Apache-2.0
"""Learning rates by depth: by hand, on a classifier of two layers."""

from __future__ import annotations

import pytest
import torch

from hylora.training.optimizer import build_optimizer, parameter_names
from vision_extras.mavil import MavilConfig, MavilForAudioClassification
from vision_extras.sounds.layer_decay import depth_of, layered_groups
from vision_extras.sounds.recipe import SoundOptimizerRecipe


def classifier():
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "audio_layers": 2, "bands": 64}
    return MavilForAudioClassification(MavilConfig(video=False, num_labels=3, **sizes))


def test_rates_fall_from_the_classifier_to_the_patches():
    model = classifier()
    groups = layered_groups(model, weight_decay=0.1, lr=1.0, decay=0.5, layers=2)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert rates.keys() == {*names.values()} and sum(len(group["params"]) for group in groups) == len(names)
    expected = {"audio.patches": 0.125, "audio.layers.0": 0.25, "audio.layers.1": 0.5}
    expected |= {"audio.norm": 1.0, "norm": 1.0, "classifier": 1.0}
    for name, parameter in model.named_parameters():
        (rate,) = [rate for prefix, rate in expected.items() if name.startswith(f"{prefix}.")]
        assert rates[name] == (rate, 0.1 if parameter.ndim > 1 else 0.0), name


def test_names_tell_depths_also_within_another_module():
    assert [depth_of(f"network.audio.{name}", 12) for name in ("patches.bias", "layers.0.x", "layers.11.x")] == [
        0,
        1,
        12,
    ]
    assert depth_of("network.audio.norm.weight", 12) == depth_of("network.classifier.bias", 12) == 13
    assert depth_of("norm.weight", 12) == 13


def test_without_decay_there_is_one_rate():
    assert {group["lr"] for group in layered_groups(classifier(), 0.1, 2e-4, 1.0, 2)} == {2e-4}


def test_an_update_moves_each_layer_by_its_rate():
    """Adam's first step is the rate, whatever the gradient."""
    model = classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = SoundOptimizerRecipe(lr=1e-3, weight_decay=0.0, layer_decay=0.5)
    optimizer = build_optimizer(layered_groups(model, 0.0, recipe.lr, recipe.layer_decay, 2), recipe)
    assert set(parameter_names(optimizer, model)) == {name for name, _ in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {name: float((value - before[name]).abs().max()) for name, value in model.state_dict().items()}
    assert moved["audio.patches.weight"] == pytest.approx(1e-3 / 8, rel=1e-3)
    assert moved["classifier.weight"] == pytest.approx(1e-3, rel=1e-3)
