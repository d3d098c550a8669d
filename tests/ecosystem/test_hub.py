# SPDX-License-Identifier: Apache-2.0
"""An adapter is pushed and pulled as an ordinary adapter, and a run's folder comes back from the hub as trained.

`push_and_pull.py`, in a process of its own, talks to a hub on this machine, through the libraries' ordinary clients.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import AutoTokenizer

import hylora
from hylora.demo.miniature import ASSETS
from hylora.runs.whereabouts import read_manifest
from hylora_eval.commands.model_options import ModelOptions
from tests.ecosystem.fake_hub import COMMIT, serve
from tests.ecosystem.push_and_pull import IDS
from tests.ecosystem.scripts import SIZES
from tests.tolerances import assert_close

SCRIPT = Path(__file__).with_name("push_and_pull.py")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Where the script ran: the hub's repositories in `hub`, its cache in `home`, the logits of every model."""
    folder = tmp_path_factory.mktemp("hub")
    with serve(folder / "hub") as address:
        settings = {
            "HF_ENDPOINT": address,
            "HF_HOME": str(folder / "home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": "hf_of_nobody",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        subprocess.run([sys.executable, str(SCRIPT)], check=True, cwd=folder, env={**os.environ, **settings})
    return folder


@pytest.fixture(scope="module")
def pulled(workplace):
    return load_file(workplace / "logits.safetensors")


@pytest.fixture
def offline(workplace, monkeypatch):
    """What the script downloaded, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(workplace / "home" / "hub"))
    return workplace


@pytest.mark.slow
def test_an_adapter_on_the_hub_is_three_ordinary_files(workplace):
    adapter = workplace / "hub" / "me" / "adapter"
    assert {path.name for path in adapter.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["base_model_name_or_path"] == "me/bamba"
    assert not [path for path in adapter.iterdir() if "hylora" in path.read_bytes().decode(errors="ignore")]


@pytest.mark.parametrize("repository", ["run", "folder"])
def test_a_runs_folder_travels_with_its_manifest_and_without_checkpoints(workplace, repository):
    folder = workplace / "hub" / "me" / repository
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"hylora.json", "adapter_config.json", "adapter_model.safetensors", "README.md"} <= files
    assert not {"optimizer.pt", "trainer_state.json"} & files
    manifest = hylora.RunManifest.load(folder)
    assert (manifest.attention, manifest.base_model) == ("se_attn", "me/bamba")
    assert manifest.span_attention == hylora.SpanConfig(**SIZES).to_dict()


@pytest.mark.parametrize("repository", ["me/adapter", "me/run"])
def test_plain_peft_pulls_the_adapter(pulled, repository):
    assert torch.equal(pulled[f"peft {repository}"], pulled["full"])
    assert not torch.allclose(pulled["full"], pulled["base"], atol=1e-3)


@pytest.mark.parametrize("repository", ["me/run", "me/folder"])
def test_hylora_pulls_a_run_as_it_was_trained(pulled, repository):
    assert torch.equal(pulled[f"hylora {repository}"], pulled["se_attn"])
    assert not torch.allclose(pulled["se_attn"], pulled["full"], atol=1e-3)


def test_hylora_pulls_a_run_under_another_attention_or_to_train_on(pulled):
    assert torch.equal(pulled["hylora full"], pulled["full"])
    assert torch.equal(pulled["hylora trainable"], pulled["se_attn"])


def test_a_loaded_run_is_pushed_so_that_it_comes_back_as_trained(workplace, pulled):
    assert torch.equal(pulled["hylora me/again"], pulled["se_attn"])
    folder = workplace / "hub" / "me" / "again"
    assert hylora.RunManifest.load(folder) == hylora.RunManifest.load(workplace / "hub" / "me" / "run")
    assert (folder / "tokenizer.json").read_bytes() == (ASSETS / "tokenizer.json").read_bytes()
    card = (folder / "README.md").read_text()
    assert "\nbase_model: me/bamba\n" in card and "- mine\n" in card and "More Information Needed" not in card
    assert 'hylora.load("me/again")  # se_attn, as trained' in card


def test_a_loaded_model_is_pushed_as_it_was_trained_whatever_attention_evaluates_it(workplace, pulled):
    manifest = hylora.RunManifest.load(workplace / "hub" / "me" / "whole")
    assert (manifest.attention, manifest.context_length) == ("se_attn", 33)
    assert manifest.span_attention == hylora.SpanConfig(**SIZES).to_dict()
    assert not torch.allclose(pulled["pushed me/whole"], pulled["hylora me/whole"], atol=1e-3)
    assert (workplace / "hub" / "me" / "whole" / "tokenizer.json").is_file()


def test_a_plain_model_of_the_hub_is_loaded_as_it_is(pulled):
    assert torch.equal(pulled["hylora me/bamba"], pulled["base"])


def test_a_run_on_the_hub_is_exported_with_its_tokenizer(workplace, pulled):
    assert_close(pulled["exported"], pulled["full"])
    assert (workplace / "exported" / "tokenizer.json").read_bytes() == (ASSETS / "tokenizer.json").read_bytes()


def test_a_run_on_the_hub_is_evaluated_with_its_tokenizer(offline):
    assert not (offline / "hub" / "me" / "bamba" / "tokenizer.json").exists()
    tokenizer = ModelOptions("me/run", device="cpu").load_tokenizer()
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(ASSETS).get_vocab()


def test_what_was_pulled_once_loads_without_network(offline, pulled):
    with torch.no_grad():
        assert torch.equal(hylora.load("me/run")(IDS).logits, pulled["se_attn"])
        assert torch.equal(hylora.load("me/bamba")(IDS).logits, pulled["base"])
    assert read_manifest("me/run").attention == "se_attn"


def test_a_revision_is_that_of_the_run_not_of_its_base(offline, pulled):
    with torch.no_grad():
        assert torch.equal(hylora.load("me/run", revision=COMMIT)(IDS).logits, pulled["se_attn"])
    with pytest.raises(FileNotFoundError, match="the hub cannot be asked .*offline mode"):
        hylora.load("me/run", revision="v1")


def test_an_adapter_without_a_manifest_is_not_guessed_at(offline):
    with pytest.raises(ValueError, match=r"holds an adapter but no hylora\.json"):
        hylora.load("me/adapter")


def test_what_was_never_pulled_is_missed_by_name(offline):
    with pytest.raises(FileNotFoundError, match="the hub cannot be asked .*offline mode"):
        hylora.load("me/elsewhere")
