# SPDX-License-Identifier: Apache-2.0
"""The page's numbers and its recipe."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from transformers import AutoTokenizer

import hylora
from hylora.adapters import HyLoraConfig, add_adapter, trainable_groups
from hylora.demo.miniature import ASSETS
from hylora.language import LanguageRecipe, train
from hylora.language.recipe import AttentionRecipe
from hylora.models.mamba2attn import Mamba2AttnConfig, Mamba2AttnForCausalLM
from tests.pages import ROOT, blocks, page
from tests.tiny import tiny_mamba2attn

PAGE = page("docs/reference/mamba2attn.md")
RECIPE = ROOT / "recipes/mamba2attn_8k.yaml"


@pytest.mark.parametrize("variant", ["lora", "longlora", "hylora"])
def test_trainable_parameters_are_those_of_the_page(variant):
    with torch.device("meta"):
        model = Mamba2AttnForCausalLM(Mamba2AttnConfig())
        size = sum(parameter.numel() for parameter in model.parameters())
        model = add_adapter(model, HyLoraConfig.for_model(model, variant, r=32, lora_alpha=64))
    assert f"{size:,} parameters" in PAGE
    counts = trainable_groups(model)
    share = f"{100 * sum(counts.values()) / size:.3f} %"
    row = next(line for line in PAGE.splitlines() if line.startswith(f'| `"{variant}"`'))
    cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
    groups = [f"{counts[group]:,}" if counts[group] else "" for group in ("attention", "embeddings", "norms", "convs")]
    assert cells == [*groups, share]


def test_the_page_names_what_exists():
    for name in re.findall(r"\b(?:recipes|tests)/[\w/]+\.(?:yaml|py)", PAGE):
        assert (ROOT / name).is_file(), name
    for pattern in re.findall(r"model\.freeze: \['(.*?)'\]", PAGE):
        assert any(re.search(pattern, name) for name, _ in tiny_mamba2attn().named_parameters())


def test_the_recipe_is_the_thesiss():
    recipe, bamba = (LanguageRecipe.load(path) for path in (RECIPE, ROOT / "recipes/bamba_8k.yaml"))
    assert recipe.training.steps * recipe.training.global_batch_size * recipe.training.sequence_length == 524_288_000
    assert recipe.attention == AttentionRecipe()
    for section in ("adapter", "data", "optimizer", "training", "evaluation"):
        assert getattr(recipe, section) == getattr(bamba, section), section


def test_the_pages_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_mamba2attn().save_pretrained("models/mamba2attn-2.7b")
    names: dict = {}
    for block in blocks(PAGE, "python"):
        exec(block, names)
    assert names["model"].config._attn_implementation == "se_attn"


@pytest.mark.slow
def test_the_recipe_trains_a_model_of_its_kind(tmp_path):
    vocabulary = json.loads((ASSETS / "config.json").read_text())["vocab_size"]
    tiny_mamba2attn(vocab_size=vocabulary).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(ASSETS).save_pretrained(tmp_path / "model")
    shutil.copy(ASSETS / "text/train.jsonl", tmp_path / "text.jsonl")
    overrides = [
        f"model.path={tmp_path / 'model'}",
        "model.tokenizer=null",
        "model.rope={type: linear, factor: 2.0}",
        "attention.chunk_size=[32, 48]",
        "attention.block_size=8",
        f"data.sources=[{{path: {tmp_path / 'text.jsonl'}}}]",
        "data.validation_fraction=0.1",
        "data.streaming=false",
        "training.steps=2",
        "training.global_batch_size=2",
        "training.sequence_length=96",
        "evaluation.every=2",
        "evaluation.max_sequences=2",
        f"output.path={tmp_path / 'run'}",
    ]
    result = train(LanguageRecipe.load(RECIPE, overrides))
    model = hylora.load(result.folder).get_base_model()
    assert model.config._attn_implementation == "se_attn"
    assert model.config.rope_parameters["rope_type"] == "linear"
    trained = [name for name, _ in model.named_parameters() if "conv1d.modules_to_save" in name]
    assert {name.split(".")[3] for name in trained} == {"mamba", "self_attn"}
