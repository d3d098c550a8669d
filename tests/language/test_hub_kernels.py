# SPDX-License-Identifier: Apache-2.0
"""Kernels of the Hub: where they are refused, when transformers is asked for them, and what then runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from transformers import PreTrainedModel
from transformers.utils import import_utils

import hylora
from hylora import hub_kernels
from hylora.adapters import HyLoraConfig, add_adapter
from hylora.hub_kernels import check_hub_kernels, replaced_by_kernels, use_hub_kernels
from hylora.language import train
from hylora.language.task import CausalLoss
from hylora.training.evaluation import evaluation_mode
from hylora.training.recipe import RecipeError
from tests.command_line import run
from tests.tiny import tiny_bamba

ROOT = Path(__file__).parents[2]


@pytest.fixture
def installed(monkeypatch):
    """The package `kernels` in a version that transformers takes."""
    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda: True)


@pytest.fixture
def asked(installed, monkeypatch):
    """What transformers is asked for, in place of asking the Hub: the model's mode, and norms in kernels."""
    requests = []

    def set_use_kernels(model, use_kernels, *_):
        if not use_kernels:
            return
        requests.append("training" if model.training else "inference")
        model._use_kernels = True
        norm = model.model.layers[0].input_layernorm
        monkeypatch.setattr(type(norm), "kernel_layer_name", "RMSNorm", raising=False)
        norm.forward = types.MethodType(lambda module, states: states * module.weight, norm)

    monkeypatch.setattr(PreTrainedModel, "set_use_kernels", set_use_kernels)
    monkeypatch.setattr(hub_kernels, "check_hub_kernels", lambda device: None)
    return requests


def test_a_version_that_transformers_does_not_take_is_refused(monkeypatch):
    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda: False)
    needed = f"use_kernels=True must .* kernels .*'kernels>={import_utils.KERNELS_MIN_VERSION},"
    with pytest.raises(ValueError, match=needed):
        check_hub_kernels("cuda")


def test_a_cpu_is_refused_before_anything_is_loaded(installed, tmp_path):
    tiny_bamba().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="use_kernels=True must come with a model on a GPU"):
        hylora.load(tmp_path, use_kernels=True)
    arguments = ("--device", "cpu", "--lengths", "8", "--data", "x")
    result = run("eval", "ppl", "--model", str(tmp_path), "--use-kernels", *arguments)
    assert "must come with a model on a GPU" in str(result.exception)


def test_kernels_that_could_not_be_had_are_told_of(installed, monkeypatch):
    """transformers goes on without a word."""
    monkeypatch.setattr(hub_kernels, "check_hub_kernels", lambda device: None)
    monkeypatch.setattr(PreTrainedModel, "set_use_kernels", lambda *_: None)
    with pytest.raises(ValueError, match="must find kernels on the Hub .* BambaForCausalLM, and could not load"):
        use_hub_kernels(tiny_bamba())

    def offline(*_):
        raise OSError("no network")

    monkeypatch.setattr(PreTrainedModel, "set_use_kernels", offline)
    with pytest.raises(ValueError, match="could not load them .no network."):
        use_hub_kernels(tiny_bamba())


def test_a_loaded_model_has_them(asked, tmp_path, monkeypatch):
    tiny_bamba().save_pretrained(tmp_path)
    monkeypatch.setattr(hylora.runs.loading, "check_hub_kernels", lambda device: None)
    assert replaced_by_kernels(hylora.load(tmp_path)) == []
    assert replaced_by_kernels(hylora.load(tmp_path, use_kernels=True)) == ["RMSNorm"]
    assert asked == ["inference"]


@pytest.mark.parametrize("adapted", [False, True])
def test_training_asks_in_its_first_pass_and_again_after_an_evaluation(asked, adapted):
    """A kernel for evaluation may have no backward pass."""
    model = tiny_bamba()
    if adapted:
        model = add_adapter(model, HyLoraConfig.for_model(model, r=2, lora_alpha=4))
    loss = CausalLoss(model, 16, hub_kernels=True).train()
    batch = {"input_ids": torch.arange(12)[None], "labels": torch.arange(12)[None]}
    assert asked == []
    loss(**batch)
    loss(**batch)
    assert asked == ["training"]
    with evaluation_mode(loss):
        loss(**batch)
    assert asked[0] == asked[-1] == "training"


def test_a_run_on_a_cpu_is_refused(installed, recipe):
    with pytest.raises(RecipeError, match=r"model\.use_kernels=True must come with a model on a GPU"):
        train(recipe({"model.use_kernels": True}))


@pytest.mark.slow
def test_kernels_of_a_local_repository_train_evaluate_and_load(tokenizer_folder, text_file, tree, tmp_path):
    """By the package itself: packed documents stay apart, and each mode has its own kernels."""
    pytest.importorskip("kernels")
    # transformers asks for the version alone, and takes few.
    shim = tmp_path / "shim" / "kernels-0.dist-info"
    shim.mkdir(parents=True)
    (shim / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: kernels\nVersion: {import_utils.KERNELS_MIN_VERSION}\n"
    )
    tree["model"]["use_kernels"] = True
    tree["data"] |= {"packing": "documents"}
    tree["evaluation"] = {"every": 1}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    paths = [str(shim.parent), *sys.path]
    output = subprocess.run(
        [sys.executable, "-m", "tests.language.local_kernels", str(recipe)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(output.stdout.splitlines()[-1])
    fused, convolution, scan = "mamba2_split_conv1d_scan_combined", "causal_conv1d_fn", "mamba2_chunk_scan"
    modes = {(name, mode, seq_idx) for name, mode, gradients, seq_idx in found["trained"] if gradients}
    assert modes == {(fused, "training", True)}
    modes = {(name, mode) for name, mode, gradients, _ in found["trained"] if not gradients}
    assert {(convolution, "inference"), (scan, "inference")} <= modes
    assert {(name, mode) for name, mode, *_ in found["loaded"]} == {(convolution, "inference"), (scan, "inference")}
    assert found["deaf"] == []
    assert len(found["replaced"]) == 3
