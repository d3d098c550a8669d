# SPDX-License-Identifier: Apache-2.0
"""A whole run on a base in four bits: it resumes exactly, loads as trained, and is exported as an ordinary model."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import hylora
from hylora.adapters.quantization import is_quantized
from hylora.language import train
from hylora.language.model import plan_model
from hylora.runs.export import export
from hylora.training import RecipeError
from tests.processes import launch
from tests.tiny import tiny_bamba


@pytest.fixture
def changes(tokenizer_folder, tmp_path):
    tiny_bamba(vocab_size=32, hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "base")
    return {
        "model": {"path": str(tmp_path / "base"), "tokenizer": str(tokenizer_folder), "quantization": "nf4"},
        "adapter": {"variant": "hylora", "r": 2, "target_modules": "all-linear"},
        "output.checkpoint_every": 2,
    }


@pytest.mark.slow
def test_a_run_in_four_bits(changes, recipe, tmp_path):
    pytest.importorskip("bitsandbytes")
    whole = train(recipe({**changes, "evaluation": {"at_end": True}}))
    train(recipe({**changes, "training.steps": 2, "output.path": str(tmp_path / "halves")}))
    halves = train(recipe({**changes, "training.resume": True, "output.path": str(tmp_path / "halves")}))
    expected = load_file(whole.folder / "adapter_model.safetensors")
    resumed = load_file(halves.folder / "adapter_model.safetensors")
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in expected.items())

    model = hylora.load(whole.folder, attention="full")
    assert is_quantized(model.get_base_model().model.layers[0].mamba.in_proj.base_layer)
    assert not is_quantized(model.get_base_model().model.layers[0].mamba.out_proj)
    export(whole.folder, tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    ids = torch.arange(2, 14)[None]
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits
        assert (plain(ids, use_cache=False).logits - logits).abs().max() < 1e-3 * logits.abs().max()
    assert "quantised, nf4" in (tmp_path / "plain" / "README.md").read_text()


@pytest.mark.slow
def test_two_processes_train_as_one(changes, recipe, tmp_path):
    pytest.importorskip("bitsandbytes")
    # no chunk sizes to draw
    changes = {**changes, "attention.chunk_size": 8}
    one = train(recipe(changes))
    two = recipe({**changes, "output.path": str(tmp_path / "two")})
    two.save(tmp_path / "two.yaml")
    launch(2, "-m", "hylora.train", tmp_path / "two.yaml")
    expected = load_file(one.folder / "adapter_model.safetensors")
    found = load_file(tmp_path / "two" / "adapter_model.safetensors")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"adapter": {"variant": "none"}}, r"model\.quantization='nf4' must come with an adapter"),
        ({"model.quantization": "nf5"}, r"model\.quantization='nf5' must be nf4 \| int8 \| torchao_int8 \| null"),
    ],
)
def test_what_the_recipe_refuses(setting, message, changes, recipe):
    with pytest.raises(RecipeError, match=message):
        recipe({**changes, **setting})


def test_a_base_that_is_quantized_already(changes, recipe, tmp_path):
    path = tmp_path / "base" / "config.json"
    config = path.read_text().rstrip().removesuffix("}")
    path.write_text(config + ', "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}}')
    with pytest.raises(RecipeError, match=r"model\.path=.* holds quantised weights.*set model\.quantization"):
        plan_model(recipe(changes))
