# SPDX-License-Identifier: Apache-2.0
"""A recipe's model that cannot be had is refused by the key that names it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from hylora.language.model import load_model, plan_model, prepare_model
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


def test_weights_go_straight_to_their_device(base, load, monkeypatch):
    """With several processes, the host would otherwise hold the model as many times."""
    given = []
    monkeypatch.setattr(
        "hylora.language.model.load_weights", lambda source, **options: given.append(options["device_map"])
    )
    load(base, torch.device("cuda", 1))
    assert given == [{"": torch.device("cuda", 1)}]


def test_weights_that_another_process_reads_are_not_read(tmp_path, load):
    expected = tiny_bamba(tie_word_embeddings=True)
    expected.save_pretrained(tmp_path)
    # Memory that nobody has written to then holds no numbers, and never by chance what was saved.
    torch.use_deterministic_algorithms(True)
    try:
        found = load(tmp_path, torch.device("meta"))
    finally:
        torch.use_deterministic_algorithms(False)
    for name, parameter in expected.named_parameters():
        assert found.get_parameter(name).shape == parameter.shape
        assert found.get_parameter(name).isnan().all(), name
    assert found.lm_head.weight is found.model.embed_tokens.weight
    assert len({parameter.data_ptr() for parameter in found.parameters()}) == len([*expected.parameters()])


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


def test_an_adapter_of_the_recipe_is_the_one_that_trains(base, recipe, tokenizer_folder):
    made = recipe(
        {
            "model": {"path": str(base), "tokenizer": str(tokenizer_folder)},
            "adapter": {
                "variant": "hylora",
                "r": 2,
                "target_modules": ["q_proj", "in_proj"],
                "modules_to_save": "lm_head",
                "rank_pattern": {"in_proj": 4},
                "use_dora": True,
                "use_rslora": True,
                "init_lora_weights": "gaussian",
            },
        }
    )
    plan = plan_model(made)
    model = prepare_model(load_model(made, plan, "no"), made, plan)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained["base_model.model.model.layers.0.mamba.in_proj.lora_A.default.weight"].shape[0] == 4
    assert trained["base_model.model.model.layers.1.self_attn.q_proj.lora_A.default.weight"].shape[0] == 2
    assert any("lora_magnitude_vector" in name for name in trained)
    assert any("lm_head.modules_to_save" in name for name in trained)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"target_modules": ["out_proj"]}, r"adapter: target_modules .* reads out_proj\.weight itself"),
        ({"init_lora_weights": "pissa"}, r"adapter: init_lora_weights='pissa' must be one of"),
        ({"r": 3, "init_lora_weights": "orthogonal"}, "adapter: .*even"),
        ({"rank_pattern": {"q_poj": 2}}, r"adapter: rank_pattern='q_poj' must match a target"),
        ({"target_modules": "model.*", "layers_to_transform": [1]}, "adapter: .*layers_to_transform"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused_without_weights(adapter, message, base, recipe, tokenizer_folder):
    (base / "model.safetensors").unlink()
    made = recipe({"model": {"path": str(base), "tokenizer": str(tokenizer_folder)}, "adapter": adapter})
    with pytest.raises(RecipeError, match=message):
        plan_model(made)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"use_dorra": True}, r"unknown key adapter\.use_dorra=True; the nearest valid key is adapter\.use_dora"),
        ({"variant": "none", "use_dora": True}, r"adapter\.use_dora=True must be left out; variant='none' does not"),
        ({"rank_pattern": {"q_proj": "four"}}, r"adapter\.rank_pattern\.q_proj='four'"),
    ],
)
def test_an_adapter_that_is_misread_is_refused_when_the_recipe_is_read(adapter, message, recipe):
    with pytest.raises(RecipeError, match=message):
        recipe({"adapter": adapter})
