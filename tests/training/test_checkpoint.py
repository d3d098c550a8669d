# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are whole or absent."""

from __future__ import annotations

import errno
import resource
import signal

import pytest
import torch
from safetensors.torch import save_file

from hylora.training import checkpoint as module
from hylora.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoint_steps,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)


def make(step, size=3):
    weights = {"a.weight": torch.full((size,), float(step)), "scalar": torch.tensor(1.5)}
    return Checkpoint(step, {"weights": weights, "optimizer": {}}, {"scalars": {"x": 0.1}})


def test_reads_back_exactly(tmp_path):
    path = save_checkpoint(tmp_path, make(7), keep=1)
    assert path.name == "step-000007"
    found = load_checkpoint(path)
    assert (found.step, found.state) == (7, {"scalars": {"x": 0.1}})
    assert found.tensors["optimizer"] == {}
    torch.testing.assert_close(found.tensors["weights"], make(7).tensors["weights"], rtol=0, atol=0)


def test_keeps_the_latest(tmp_path):
    for step in (1, 2, 3, 1_000_000):
        save_checkpoint(tmp_path, make(step), keep=2)
    assert checkpoint_steps(tmp_path) == [3, 1_000_000]
    assert latest_checkpoint(tmp_path).name == "step-1000000"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000003", "step-1000000"]


def test_no_checkpoint_is_none(tmp_path):
    assert latest_checkpoint(tmp_path) is None and latest_checkpoint(tmp_path / "absent") is None


@pytest.mark.parametrize("damage", ["missing", "cut", "no manifest", "bad manifest"])
def test_a_damaged_checkpoint_is_not_taken_for_whole(tmp_path, damage):
    save_checkpoint(tmp_path, make(1), keep=5)
    path = save_checkpoint(tmp_path, make(2), keep=5)
    weights, manifest = path / "weights.safetensors", path / "manifest.json"
    if damage == "missing":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text("{")
    assert latest_checkpoint(tmp_path).name == "step-000001"
    # The place is taken again by a good one.
    save_checkpoint(tmp_path, make(2), keep=5)
    assert checkpoint_steps(tmp_path) == [1, 2]


@pytest.mark.parametrize("failing_file", ["weights.safetensors", "optimizer.safetensors"])
def test_a_full_disk_leaves_earlier_checkpoints(tmp_path, monkeypatch, failing_file):
    save_checkpoint(tmp_path, make(1), keep=1)

    def full(tensors, path):
        if path.name == failing_file:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path)

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(CheckpointError, match=r"step-000002.*No space left.*steps \[1\] are intact.*resume=true"):
        save_checkpoint(tmp_path, make(2), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    assert load_checkpoint(latest_checkpoint(tmp_path)).step == 1


@pytest.fixture
def small_files_only():
    """The operating system refuses to write more than a few bytes to a file, as a full disk would."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_real_write_failure_is_explained(tmp_path, small_files_only):
    save_checkpoint(tmp_path, make(1), keep=1)
    with pytest.raises(CheckpointError, match=r"could not be written.*steps \[1\] are intact"):
        save_checkpoint(tmp_path, make(2, size=10**5), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


@pytest.mark.parametrize("moment", ["while writing", "before the rename"])
def test_a_crash_leaves_nothing_that_looks_like_a_checkpoint(tmp_path, monkeypatch, moment):
    save_checkpoint(tmp_path, make(1), keep=1)

    class Killed(BaseException):
        pass

    def die(*args, **kwargs):
        raise Killed

    # A kill runs no cleanup.
    monkeypatch.setattr(module.shutil, "rmtree", lambda *args, **kwargs: None)
    monkeypatch.setattr(*((module, "save_file") if moment == "while writing" else (module.os, "rename")), die)
    with pytest.raises(Killed):
        save_checkpoint(tmp_path, make(2), keep=1)
    monkeypatch.undo()
    assert checkpoint_steps(tmp_path) == [1]
    save_checkpoint(tmp_path, make(3), keep=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000003"]


def test_an_unreadable_checkpoint_says_what_to_do(tmp_path):
    path = save_checkpoint(tmp_path, make(1), keep=1)
    weights = path / "weights.safetensors"
    weights.write_bytes(b"\xff" * weights.stat().st_size)
    with pytest.raises(CheckpointError, match="cannot be read.*delete its folder"):
        load_checkpoint(path)
