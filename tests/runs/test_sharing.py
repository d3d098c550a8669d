# SPDX-License-Identifier: Apache-2.0
"""A loaded model is saved with what loads it again as it was trained."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import weakref

import pytest
import torch
from peft import PeftModelForCausalLM

import hylora
from hylora.demo.miniature import ASSETS
from tests.runs.test_export import SPAN, logits, write_run
from tests.tiny import tiny_bamba


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An adapter beside its base, trained with SE-Attn."""
    return write_run(tmp_path_factory.mktemp("shared"), tiny_bamba)


def test_a_saved_run_comes_back_as_trained(run, tmp_path):
    # For another attention than it was trained with, which is not what the folder is about.
    hylora.load(run, attention="full").save_pretrained(tmp_path / "again")
    assert torch.equal(logits(hylora.load(tmp_path / "again")), logits(hylora.load(run)))
    assert hylora.RunManifest.load(tmp_path / "again") == hylora.RunManifest.load(run)
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (ASSETS / "tokenizer.json").read_bytes()
    card = (tmp_path / "again" / "README.md").read_text()
    assert 'hylora.load("again")  # se_attn, as trained' in card and "library_name: peft" in card


def test_a_card_that_tells_more_is_kept(run, tmp_path):
    hylora.load(run).save_pretrained(tmp_path / "again")
    card = tmp_path / "again" / "README.md"
    card.write_text(card.read_text() + "\nMore on it.\n")
    hylora.load(tmp_path / "again").save_pretrained(tmp_path / "third")
    assert (tmp_path / "third" / "README.md").read_text() == card.read_text()


def test_a_model_that_trains_on_says_what_it_is_now(run, tmp_path):
    model = hylora.load(run, trainable=True)
    hylora.set_attention(model, "sw_attn", window=7)
    model.save_pretrained(tmp_path / "on")
    manifest = hylora.RunManifest.load(tmp_path / "on")
    assert (manifest.attention, manifest.span_attention["window"], manifest.context_length) == ("sw_attn", 7, 64)


def test_a_plain_model_is_saved_plainly_unless_it_has_an_attention_of_ours(run, tmp_path):
    base = hylora.RunManifest.load(run).base_model
    hylora.load(base).save_pretrained(tmp_path / "plain")
    assert {"hylora.json", "README.md"}.isdisjoint(os.listdir(tmp_path / "plain"))
    model = hylora.load(base, "se_attn", **SPAN)
    model.save_pretrained(tmp_path / "spans")
    assert torch.equal(logits(hylora.load(tmp_path / "spans")), logits(model))


def test_other_processes_than_the_main_one_write_nothing(run, tmp_path):
    hylora.load(run).save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other" / "hylora.json").exists()


def test_copies_are_plain_and_nothing_is_held(run, tmp_path):
    model = hylora.load(run)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(other), logits(model)) and type(other) is PeftModelForCausalLM
    assert isinstance(model, PeftModelForCausalLM) and type(model).__name__ == "PeftModelForCausalLM"
    gone = weakref.ref(model)
    gc.collect()
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()
