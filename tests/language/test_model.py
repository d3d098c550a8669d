# SPDX-License-Identifier: Apache-2.0
"""A recipe's model that cannot be had is refused by the key that names it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from hylora.language.model import load_model, plan_model
from hylora.training.recipe import RecipeError
from tests.tiny import tiny_bamba


@pytest.fixture
def base(tmp_path):
    tiny_bamba().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def load(recipe, tokenizer_folder):
    """Plan and load the model of a folder."""

    def load(folder, device=None):
        made = recipe({"model": {"path": str(folder), "tokenizer": str(tokenizer_folder)}})
        return load_model(made, plan_model(made), "no", device)

    return load


def test_a_model_is_loaded(base, load):
    expected = tiny_bamba().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in load(base).state_dict().items())


def test_weights_go_straight_to_their_device(base, load):
    """With several processes, the host would otherwise hold the model as many times."""
    assert {parameter.device.type for parameter in load(base, torch.device("meta")).parameters()} == {"meta"}


def test_a_folder_that_does_not_exist(load):
    with pytest.raises(RecipeError, match=r"^model\.path='/nonexistent/x' cannot be read: folder .* does not exist"):
        load("/nonexistent/x")


def test_truncated_weights(base, load):
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(RecipeError, match=r"^model\.path='\S+base' cannot be loaded: .* whole safetensors files"):
        load(base)


def test_a_weight_that_is_not_finite(base, load):
    path = base / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.2.mamba.D"][1] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(RecipeError, match=r"^model\.path='\S+base' .*must be finite, but model\.layers\.2\.mamba\.D"):
        load(base)
