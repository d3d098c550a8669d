# SPDX-License-Identifier: Apache-2.0
"""A loaded model is saved with what loads it again as it was trained."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import RepoUrl
from peft import PeftModelForCausalLM
from transformers import PreTrainedModel

import hylora
from hylora.demo.miniature import ASSETS
from hylora.runs import sharing
from tests.runs.test_export import SPAN, logits, write_run
from tests.tiny import tiny_bamba


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An adapter beside its base, trained with SE-Attn."""
    return write_run(tmp_path_factory.mktemp("shared"), tiny_bamba)


def spanning(run):
    """A whole model, which may be pushed wherever it is from."""
    return hylora.load(hylora.RunManifest.load(run).base_model, "se_attn")


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
    # transformers' second argument; PEFT's is another
    spanning(run).save_pretrained(tmp_path / "second", False)
    assert not (tmp_path / "second" / "hylora.json").exists()


@pytest.mark.parametrize("head", ["tags: 5", "tags: [hylora", "tags: !!int ''", "[hylora]"])
def test_a_damaged_card_or_record_is_as_none(run, tmp_path, head):
    hylora.load(run).save_pretrained(tmp_path / "again")
    (tmp_path / "again" / "README.md").write_text(f"---\n{head}\n---\n\nThe old card\n")
    hylora.load(tmp_path / "again").save_pretrained(tmp_path / "third")
    (tmp_path / "again" / "data.json").write_text('{"train": null, "validation": [5]}')
    hylora.load(tmp_path / "again").save_pretrained(tmp_path / "fourth")
    for name in ("third", "fourth"):
        card = (tmp_path / name / "README.md").read_text()
        assert f'hylora.load("{name}")  # se_attn, as trained' in card and "The old card" not in card


def test_saving_does_not_push_what_is_half_there(run, tmp_path):
    for model in (hylora.load(run), spanning(run)):
        with pytest.raises(ValueError, match=r"push the model by \.push_to_hub\(repo_id\)"):
            model.save_pretrained(tmp_path / "out", push_to_hub=True)
    with pytest.raises(ValueError, match="push_to_hub=True"):
        model.save_pretrained(tmp_path / "out", True, None, True)
    assert not (tmp_path / "out").exists()


class RecordingHub:
    """In place of `HfApi`: what is asked of it, in order, and the card that is uploaded; main has one."""

    def __init__(self):
        self.asked, self.card = [], None

    def create_repo(self, repo_id, **options):
        self.asked.append("create_repo")
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    def create_branch(self, repo_id, *, branch, exist_ok, **options):
        self.asked.append(f"create_branch {branch} {exist_ok}")

    def file_exists(self, repo_id, filename, *, revision=None, **options):
        return revision is None

    def upload_folder(self, *, folder_path, revision=None, **options):
        self.asked.append(f"upload_folder {revision}")
        card = Path(folder_path, "README.md")
        self.card = card.read_text() if card.exists() else None


@pytest.fixture
def hub(monkeypatch):
    hub = RecordingHub()
    monkeypatch.setattr(sharing, "HfApi", lambda: hub)
    return hub


def test_a_branch_is_made_and_asked_for_its_card(run, hub):
    spanning(run).push_to_hub("me/spans")
    assert hub.asked == ["create_repo", "upload_folder None"] and hub.card is None
    spanning(run).push_to_hub("me/spans", revision="second", tags="mine")
    assert hub.asked[2:] == ["create_repo", "create_branch second True", "upload_folder second"]
    assert "\n- mine\n" in hub.card


def test_a_plain_model_is_pushed_as_transformers_does(run, hub, monkeypatch):
    monkeypatch.setattr(PreTrainedModel, "push_to_hub", lambda self, name, **options: (name, options))
    model = hylora.load(hylora.RunManifest.load(run).base_model)
    name, options = model.push_to_hub("me/plain", tags="mine", revision="second")
    assert (name, options["tags"], options["revision"]) == ("me/plain", ["mine"], "second") and not hub.asked


@pytest.mark.parametrize("corrected", [False, True])
def test_an_adapter_of_a_local_base_is_not_published(run, hub, corrected):
    model = hylora.load(run)
    if corrected:  # in hylora.json alone
        model.active_peft_config.base_model_name_or_path = model._hylora_origin.manifest.base_model
        manifest = replace(model._hylora_origin.manifest, base_model="me/base")
        model._hylora_origin = replace(model._hylora_origin, manifest=manifest)
    with pytest.raises(ValueError, match=r"is a folder here.*base_model_name_or_path.*hylora export"):
        model.push_to_hub("me/run")
    assert not hub.asked


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
