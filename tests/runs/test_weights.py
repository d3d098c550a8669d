# SPDX-License-Identifier: Apache-2.0
"""Weights come whole and sound, or with a message that says what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import hylora
from hylora.runs.weights import load_weights
from hylora.tensors import is_finite
from tests.tiny import tiny_bamba

FILE = "model.safetensors"


def cut(folder: Path):
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-1000])


def empty(folder: Path):
    (folder / FILE).write_bytes(b"")


def pickle(folder: Path):
    torch.save(load_file(folder / FILE), folder / "pytorch_model.bin")
    (folder / FILE).unlink()


def lose_a_shard(folder: Path):
    (folder / FILE).unlink()
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def break_the_index(folder: Path):
    lose_a_shard(folder)
    (folder / "model.safetensors.index.json").write_text("{")


def change(folder: Path, name: str, tensor: torch.Tensor | None):
    weights = load_file(folder / FILE)
    if tensor is None:
        del weights[name]
    else:
        weights[name] = tensor
    save_file(weights, folder / FILE, metadata={"format": "pt"})


@pytest.fixture
def folder(tmp_path):
    tiny_bamba().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("damage", [cut, empty, pickle, lose_a_shard, break_the_index])
def test_damaged_files_are_told_with_the_remedy(folder, damage):
    damage(folder)
    with pytest.raises(ValueError, match=r"weights of '\S+base' must be whole safetensors files .*download or copy"):
        load_weights(folder)


def test_weights_of_another_config(folder):
    change(folder, "model.embed_tokens.weight", torch.ones(50, 32))
    with pytest.raises(ValueError, match=r"embed_tokens\.weight has \[50, 32\] in place of \[96, 32\]; take config"):
        load_weights(folder)


def test_missing_weights_are_not_made_up(folder):
    change(folder, "model.layers.0.mamba.A_log", None)
    with pytest.raises(ValueError, match=r"lack \['model\.layers\.0\.mamba\.A_log'\] \(1 in all\)"):
        hylora.load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["model.layers.0.mamba.A_log", "model.layers.1.self_attn.q_proj.weight"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_value_that_is_not_finite_is_found(folder, name, value, dtype):
    tensor = load_file(folder / FILE)[name]
    tensor.view(-1)[3] = value
    change(folder, name, tensor)
    with pytest.raises(ValueError, match=rf"'\S+base' must be finite, but {name} is not; the file is damaged"):
        hylora.load(folder, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_any_type_can_be_looked_at(dtype):
    tensor = torch.linspace(-2, 2, 9).to(dtype)
    assert is_finite(tensor)
    tensor[4] = float("nan")
    assert not is_finite(tensor)


def test_what_holds_no_fractions_is_finite():
    for tensor in (torch.empty(0), torch.empty(3, device="meta"), torch.tensor([1, 2])):
        assert is_finite(tensor)


def test_an_adapter_that_is_not_finite_is_found(folder, tmp_path):
    model = peft.get_peft_model(load_weights(folder), peft.LoraConfig(target_modules=["q_proj"]))
    next(parameter for name, parameter in model.named_parameters() if "lora_B" in name).data[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "run")
    hylora.RunManifest(base_model=str(folder)).save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"'\S+run' must be finite, but \S+lora_B\S+ is not"):
        hylora.load(tmp_path / "run")
