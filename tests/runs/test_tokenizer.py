# SPDX-License-Identifier: Apache-2.0
"""A run's tokenizer is its own before that of its base, and one without words is none."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from hylora.demo.miniature import ASSETS
from hylora.runs.manifest import RunManifest
from hylora.runs.tokenizer import check_vocabulary, find_tokenizer, read_tokenizer


@pytest.fixture
def folders(tmp_path):
    """A base and a run; transformers makes up a tokenizer for an architecture such as theirs."""
    for name in ("base", "run"):
        AutoConfig.for_model("qwen3").save_pretrained(tmp_path / name)
    return tmp_path / "base", tmp_path / "run", RunManifest(base_model=str(tmp_path / "base"))


def save_tokenizer(folder, *added):
    tokenizer = AutoTokenizer.from_pretrained(ASSETS)
    tokenizer.add_tokens(list(added))
    tokenizer.save_pretrained(folder)


def test_a_folder_that_does_not_exist():
    with pytest.raises(FileNotFoundError, match=r"^folder '/nowhere/tokenizer' does not exist"):
        read_tokenizer("/nowhere/tokenizer")


def test_a_made_up_tokenizer_is_none(folders):
    base, run, manifest = folders
    assert len(AutoTokenizer.from_pretrained(run)) == 1
    with pytest.raises(ValueError, match=r"run' has no tokenizer: what was found there knows no words"):
        read_tokenizer(run)
    with pytest.raises(ValueError, match=r"loaded from '\S+run' nor from the base model '\S+base'; save the one"):
        find_tokenizer(run, manifest)
    with pytest.raises(ValueError, match=r"no tokenizer could be loaded from '\S+run'; save the one"):
        find_tokenizer(run, RunManifest())


def test_the_runs_own_comes_before_its_bases(folders):
    base, run, manifest = folders
    save_tokenizer(base)
    assert "<new>" not in find_tokenizer(run, manifest).get_vocab()
    save_tokenizer(run, "<new>")
    assert "<new>" in find_tokenizer(run, manifest).get_vocab()


def test_every_id_of_a_tokenizer_has_a_place_in_the_models_vocabulary():
    tokenizer = AutoTokenizer.from_pretrained(ASSETS)
    check_vocabulary(tokenizer, len(tokenizer))
    with pytest.raises(ValueError, match=rf"highest token id {len(tokenizer) - 1} \('.*'\) must be below the model's"):
        check_vocabulary(tokenizer, len(tokenizer) - 1)


def test_gaps_between_ids_do_not_hide_the_highest():
    words = {"<unk>": 0, "a": 1, "far": 90}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")))
    check_vocabulary(tokenizer, 91)
    with pytest.raises(ValueError, match=r"highest token id 90 \('far'\) must be below .* vocabulary of 32; take"):
        check_vocabulary(tokenizer, 32)
