# SPDX-License-Identifier: Apache-2.0
"""Models that are not where they are said to be."""

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from hylora.runs.whereabouts import check_exists, find_folder, is_hub_id, read_manifest
from tests.pages import ROOT


@pytest.mark.parametrize("name", ["./run", "/nowhere", "~/run", "a/b/c", "tests/run"])
def test_what_looks_like_a_path_must_exist(name):
    with pytest.raises(FileNotFoundError, match=f"^folder '{name}' does not exist; give a run's folder, a model"):
        check_exists(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "folder '' does not exist"),
        ("README.md", "'README.md' is a file"),
        ("docs", "'docs' holds no model"),
        ("docs/name", "or rename the folder 'docs' here if a hub id is meant"),
    ],
)
def test_what_is_here_and_no_model_is_refused_at_once(name, says, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(FileNotFoundError, match=says):
        read_manifest(name)


@pytest.mark.parametrize("name", ["gpt2", "owner/name"])
def test_the_hub_is_asked_for_what_may_be_an_id(name):
    check_exists(name)


class NotThere(RepositoryNotFoundError):
    def __init__(self):
        OSError.__init__(self, "401")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (NotThere(), "the hub has no model of that name"),
        (LocalEntryNotFoundError("offline"), "the hub cannot be asked"),
    ],
)
def test_what_is_neither_here_nor_on_the_hub_is_told_to_be_either(monkeypatch, tmp_path, error, says):
    monkeypatch.chdir(tmp_path)

    def refuse(*args, **settings):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(FileNotFoundError, match=f"^'outputs/run' is no folder here, and .*{says}.*; correct the path"):
        find_folder("outputs/run")


def test_a_folder_that_is_here_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("models/bamba") and is_hub_id("gpt2")
    (tmp_path / "models" / "bamba").mkdir(parents=True)
    for name in ("models/bamba", "/models/bamba", "a/b/c", "a--b", "me/model.git", "gpt2\n", "mé/model", "", "a\0b"):
        assert not is_hub_id(name), name
