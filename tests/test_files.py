# SPDX-License-Identifier: Apache-2.0
"""What is written appears whole, with ordinary permissions, or not at all."""

from __future__ import annotations

import os
import resource
import stat

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from hylora.demo.miniature import ASSETS
from hylora.files import atomic_folder, write_atomically


@pytest.fixture
def umask():
    """Files of the group's own, whoever runs the tests."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_text_and_bytes_replace_a_file(tmp_path, umask):
    path = tmp_path / "a.json"
    write_atomically(path, "naïve\n")
    assert path.read_bytes() == "naïve\n".encode()
    write_atomically(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert os.listdir(tmp_path) == ["a.json"]
    assert mode(path) == 0o640


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError("No space left on device")

    path = tmp_path / "a.json"
    write_atomically(path, "old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_of_weights_can_be_read_by_whoever_may_read_new_files(tmp_path, umask):
    with atomic_folder(tmp_path / "new" / "model") as folder:
        save_file({"a": torch.ones(1)}, folder / "model.safetensors")
        assert not (tmp_path / "new" / "model").exists()
    assert os.listdir(tmp_path / "new") == ["model"]
    assert mode(tmp_path / "new" / "model") == 0o750
    assert mode(tmp_path / "new" / "model" / "model.safetensors") == 0o640


WRITERS = {
    "weights": lambda folder: save_file({"a": torch.ones(9999)}, folder / "model.safetensors"),
    "tokenizer": AutoTokenizer.from_pretrained(ASSETS).save_pretrained,
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_disk_that_fails_is_told_with_the_folder(tmp_path, writer):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    target = tmp_path / "model"
    with pytest.raises(OSError, match=f"File too large: '{target}'"), atomic_folder(target) as folder:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            writer(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_filled_is_not_there(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "model") as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert os.listdir(tmp_path) == []
