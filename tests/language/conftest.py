# SPDX-License-Identifier: Apache-2.0
"""A tokenizer, a text and a recipe small enough to train in a second."""

from __future__ import annotations

import json
import random

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hylora.language import LanguageRecipe

# Models this small only lose by several threads, and much where the machine is shared.
torch.set_num_threads(1)

WORDS = ["the", "span", "of", "memory", "block", "reads", "a", "chunk", "and", "keeps", "its", "past"]

BAMBA = {
    "model_type": "bamba",
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attn_layer_indices": [1],
    "mamba_n_heads": 4,
    "mamba_d_state": 8,
    "mamba_chunk_size": 16,
}


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary = {word: index for index, word in enumerate(["<unk>", "<eos>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """40 documents of 10 to 60 words."""
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    draw = random.Random(0)
    documents = [{"text": " ".join(draw.choices(WORDS, k=draw.randint(10, 60)))} for _ in range(40)]
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return path


@pytest.fixture
def tree(tokenizer_folder, text_file, tmp_path):
    """The plain values of a recipe: a tiny Bamba from scratch with SE-Attn, chunk sizes drawn at random."""
    return {
        "model": {"from_scratch": True, "config": dict(BAMBA), "tokenizer": str(tokenizer_folder)},
        "attention": {"name": "se_attn", "block_size": 4, "top_k": 1, "chunk_size": [8, 16]},
        "adapter": {"variant": "none"},
        "data": {
            "sources": [{"path": str(text_file)}],
            "validation_fraction": 0.2,
            "cache_dir": str(tmp_path / "cache"),
        },
        "optimizer": {"lr": 1e-2, "schedule": {"warmup_steps": 2}},
        "training": {"steps": 4, "global_batch_size": 4, "batch_size": 2, "sequence_length": 32},
        "evaluation": {"at_start": False, "at_end": False},
        "tracking": {"progress": False},
        "output": {"path": str(tmp_path / "run"), "checkpoint_every": 0},
    }


@pytest.fixture
def recipe(tree):
    """Make a recipe of `tree` with some keys set: `recipe({"training.steps": 2})`."""

    def make(changes=None):
        changed = json.loads(json.dumps(tree))
        for key, value in (changes or {}).items():
            *parents, last = key.split(".")
            node = changed
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
        return LanguageRecipe.from_tree(changed)

    return make
