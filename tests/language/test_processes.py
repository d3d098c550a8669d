# SPDX-License-Identifier: Apache-2.0
"""Runs that are sharded over processes, from a checkpoint of a base to a result, beside the run of one process."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import hylora
from hylora.language import LanguageRecipe, train
from hylora.training.reporting import read_metrics
from tests.language.conftest import BAMBA
from tests.pages import ROOT
from tests.processes import launch, launch_environment

pytestmark = pytest.mark.slow

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed, and a compiler for its CPU operations"
)


@pytest.fixture
def start(tree, tmp_path, tokenizer_folder):
    """Save a base with tied embeddings, and give a recipe's values that train all groups of HyLoRA on it."""
    torch.manual_seed(0)
    values = dict(BAMBA)
    config = AutoConfig.for_model(values.pop("model_type"), tie_word_embeddings=True, **values)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(tmp_path / "base")
    tree["model"] = {"path": str(tmp_path / "base")}
    tree["adapter"] = {"variant": "hylora", "r": 2, "lora_alpha": 4, "lora_dropout": 0.0}
    tree["attention"]["chunk_size"] = 16
    tree["optimizer"] |= {"max_grad_norm": 0.5, "weight_decay": 0.1}
    tree["training"]["global_batch_size"] = 8
    tree["evaluation"] = {"every": 2}
    return tree


def one_process(start, folder, **training):
    tree = json.loads(json.dumps(start))
    tree["output"]["path"] = str(folder)
    tree["training"] |= training
    train(LanguageRecipe.from_tree(tree))


def sharded(start, folder, config, *overrides, variables=None):
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(start))
    launch(
        2, "-m", "tests.sharded", path, f"output.path={folder}", *overrides,
        variables={"ACCELERATE_USE_CPU": "false", **launch_environment(config), **(variables or {})},
    )  # fmt: skip


def assert_alike(found, expected, name="adapter_model.safetensors"):
    """The same result and the same records, up to rounding."""
    left, right = load_file(found / name), load_file(expected / name)
    assert left.keys() == right.keys()
    for key in right:
        torch.testing.assert_close(left[key], right[key], rtol=1e-4, atol=2e-5, msg=key)
    records = [read_metrics(folder / "metrics.jsonl") for folder in (found, expected)]
    assert [record["step"] for record in records[0]] == [record["step"] for record in records[1]]
    for left, right in zip(*records, strict=True):
        for key in right.keys() & {"loss", "eval_loss", "grad_norm"}:
            assert left[key] == pytest.approx(right[key], rel=1e-5), (key, right["step"])


def test_fsdp2_trains_resumes_and_exports_what_one_process_does(start, tmp_path):
    """A checkpoint of two processes goes on with one, and one of one with two; all end in the same model."""
    start["output"]["checkpoint_every"] = 2
    config = ROOT / "recipes/accelerate/fsdp2.yaml"
    one, begun_by_two, ended_by_two = (tmp_path / name for name in ("one", "begun", "ended"))
    one_process(start, one)
    sharded(start, begun_by_two, config, "training.steps=2")
    one_process(start, begun_by_two, resume=True)
    assert_alike(begun_by_two, one)
    one_process(start, ended_by_two, steps=2)
    sharded(start, ended_by_two, config, "training.resume=true")
    assert_alike(ended_by_two, one)
    ids = torch.arange(2, 14)[None]
    logits = [hylora.load(folder)(ids).logits for folder in (ended_by_two, one)]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


MEMORY = """
import os, sys
import torch
from accelerate import PartialState
from hylora.language import LanguageRecipe
from hylora.language.model import load_model, plan_model

def held():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

first = PartialState(cpu=True).is_main_process
recipe = LanguageRecipe.load(sys.argv[1])
plan = plan_model(recipe)
before = held()
model = load_model(recipe, plan, "no", None if first else torch.device("meta"))
sys.stdout.write(f"{'first' if first else 'second'}: {held() - before}\\n")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
def test_fsdp2_reads_weights_once(start, tmp_path):
    """Only the process that reads the base takes memory for it."""
    config = AutoConfig.for_model("llama", hidden_size=512, intermediate_size=2048, num_hidden_layers=4, vocab_size=32)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(start["model"]["path"])
    start["adapter"] = {"variant": "none"}
    (tmp_path / "program.py").write_text(MEMORY)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(start))
    variables = launch_environment(ROOT / "recipes/accelerate/fsdp2.yaml")
    done = launch(2, tmp_path / "program.py", tmp_path / "recipe.yaml", variables=variables)
    held = {name: int(number) for name, number in re.findall(r"(first|second): (-?\d+)", done.stdout)}
    assert held["second"] < held["first"] / 10


def test_fsdp2_trains_whole_models(start, tmp_path):
    """Without rounding its losses either, where passes are in bfloat16."""
    start["adapter"] = {"variant": "none"}
    start["training"]["mixed_precision"] = "bf16"
    one_process(start, tmp_path / "one")
    sharded(start, tmp_path / "two", ROOT / "recipes/accelerate/fsdp2.yaml")
    losses = [
        [record.get("loss", record.get("eval_loss")) for record in read_metrics(tmp_path / name / "metrics.jsonl")]
        for name in ("one", "two")
    ]
    # A sum of losses in bfloat16 would be off by up to 4e-3.
    assert losses[1] == pytest.approx(losses[0], rel=5e-4)


@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("variant", ["hylora", "none"])
def test_deepspeed_trains_and_exports_what_one_process_does(start, tmp_path, stage, variant):
    if variant == "none":
        start["adapter"] = {"variant": "none"}
    config = ROOT / f"recipes/accelerate/deepspeed_zero{stage}.yaml"
    variables = {"DS_ACCELERATOR": "cpu"}
    if stage == 3:
        # So small parameters ZeRO-3 would leave whole.
        file = tmp_path / "deepspeed.json"
        options = {"stage": 3, "stage3_param_persistence_threshold": 0}
        options["stage3_gather_16bit_weights_on_model_save"] = True
        file.write_text(json.dumps({"zero_optimization": options, "train_micro_batch_size_per_gpu": 1}))
        settings = yaml.safe_load(config.read_text())
        settings["deepspeed_config"] = {"deepspeed_config_file": str(file), "zero3_init_flag": True}
        config = tmp_path / "accelerate.yaml"
        config.write_text(yaml.safe_dump(settings))
    one_process(start, tmp_path / "one")
    sharded(start, tmp_path / "two", config, variables=variables)
    assert_alike(tmp_path / "two", tmp_path / "one", ("adapter_" if variant == "hylora" else "") + "model.safetensors")
