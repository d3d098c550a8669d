# SPDX-License-Identifier: Apache-2.0
"""Models and tokenizers have names by what they do."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, ByT5Tokenizer

import hylora
from hylora.demo.miniature import ASSETS
from hylora.runs.fingerprint import model_fingerprint, tokenizer_fingerprint
from hylora.runs.weights import load_weights
from tests.tiny import tiny_bamba, tiny_llama


def test_a_model_keeps_its_name_on_disk_and_elsewhere(tmp_path):
    model = tiny_bamba(tie_word_embeddings=True)
    expected = model_fingerprint(model)
    assert len(expected) == 32
    for name in ("a", "b"):
        model.save_pretrained(tmp_path / name)
        assert model_fingerprint(load_weights(tmp_path / name)) == model_fingerprint(load_weights(tmp_path / "a"))
    assert model_fingerprint(tiny_bamba(tie_word_embeddings=True)) == expected


@pytest.mark.parametrize("place", [0, 17, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_number_anywhere_changes_the_name(place, dtype):
    model = tiny_llama(dtype=dtype)
    before = model_fingerprint(model)
    weight = model.model.layers[1].mlp.down_proj.weight.data.view(-1)
    weight[place] = -weight[place]
    assert model_fingerprint(model) != before


def test_changes_that_leave_sums_alone_change_the_name():
    model = tiny_llama()
    weight = model.model.layers[0].mlp.up_proj.weight.data
    before = model_fingerprint(model)
    weight[[3, 5]] = weight[[5, 3]]
    assert model_fingerprint(model) != before
    weight[[3, 5]] = weight[[5, 3]]
    assert model_fingerprint(model) == before


def test_the_config_and_buffers_count():
    model = tiny_llama()
    names = [model_fingerprint(model)]
    model.config.rms_norm_eps = 1e-3
    names.append(model_fingerprint(model))
    norm = nn.BatchNorm1d(2)
    names.append(model_fingerprint(norm))
    norm.running_mean += 1
    names.append(model_fingerprint(norm))
    assert len(set(names)) == 4


def test_options_of_an_attention_do_not_count():
    """They are the run's, whose recipe tells them; another version of the package has more of them."""
    model = tiny_llama()
    before = model_fingerprint(model)
    hylora.set_attention(model, "se_attn", top_k=1)
    assert model_fingerprint(model) == before


def test_a_tokenizer_keeps_its_name_when_it_is_used_and_saved(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(ASSETS)
    expected = tokenizer_fingerprint(tokenizer)
    tokenizer(["a b", "c"], padding="max_length", truncation=True, max_length=4)
    assert tokenizer_fingerprint(tokenizer) == expected
    tokenizer.add_tokens(["<new>"])
    assert tokenizer_fingerprint(tokenizer) != expected
    assert tokenizer_fingerprint(ByT5Tokenizer()) == tokenizer_fingerprint(ByT5Tokenizer())
