# SPDX-License-Identifier: Apache-2.0
"""The command lines: what they run, what they say and how they end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hylora import train as command
from hylora.training.checkpoint import CheckpointError, checkpoint_steps
from hylora.training.loop import TrainingError
from hylora.training.reporting import read_metrics
from tests import command_line
from tests.outcomes import assert_same

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe_file(tree, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_hylora_train_runs_a_recipe_with_overrides(recipe_file, tmp_path):
    result = command_line.run("train", recipe_file, "training.steps=1", f"output.path={tmp_path / 'elsewhere'}")
    assert result.exit_code == 0, result.output
    assert len(read_metrics(tmp_path / "elsewhere" / "metrics.jsonl")) == 1


def test_a_wrong_recipe_ends_with_its_message(recipe_file, capsys):
    assert command.main([str(recipe_file), "optimizer.learning_rate=1"]) == command.EXIT_WRONG_RECIPE == 2
    error = capsys.readouterr().err
    assert re.match(r"error: unknown key optimizer\.learning_rate=1", error) and "Traceback" not in error


@pytest.mark.parametrize("error", [TrainingError("not finite"), CheckpointError("disk full")])
def test_a_failure_ends_with_its_message(recipe_file, capsys, monkeypatch, error):
    def fail(recipe, make_task):
        raise error

    monkeypatch.setattr("hylora.training.whole_run.run", fail)
    assert command.run(str(recipe_file)) == command.EXIT_FAILED == 1
    assert capsys.readouterr().err == f"error: {error}\n"


def test_processes_that_would_not_be_connected_are_refused(recipe_file, capsys, monkeypatch):
    """Each of them would train alone and write into the same folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command.run(str(recipe_file)) == command.EXIT_FAILED
    assert "ACCELERATE_USE_CPU=true" in capsys.readouterr().err


def environment(**variables):
    return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **variables}


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(recipe_file, tmp_path):
    """The real thing: a process that is told to end, and one that takes over."""
    call = [sys.executable, "-m", "hylora.train", str(recipe_file), "training.resume=true", "training.steps=60"]
    call += ["tracking.progress=true"]
    whole = [*call, f"output.path={tmp_path / 'whole'}"]
    assert subprocess.run(whole, cwd=ROOT, env=environment(), capture_output=True).returncode == 0
    with subprocess.Popen(call, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        metrics = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while len(read_metrics(metrics)) < 5:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert process.returncode == command.EXIT_STOPPED == 75
    done = checkpoint_steps(tmp_path / "run" / "checkpoints")[-1]
    assert f"stopped by SIGTERM after {done} updates, saved " in error
    assert 5 <= done < 60
    assert subprocess.run(call, cwd=ROOT, env=environment(), capture_output=True).returncode == 0
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert_same(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True], ids=["cached", "streamed"])
def test_two_processes_are_one_with_the_same_global_batch(recipe_file, tmp_path, streaming):
    """DDP on two processes against accumulation on one; then two that resume against two that did not stop."""
    overrides = [
        "attention.chunk_size=16",
        "evaluation.every=2",
        "training.global_batch_size=8",
        "output.checkpoint_every=2",
        "training.resume=true",
    ]
    if streaming:
        overrides += ["data.streaming=true"]
    module = ["-m", "hylora.train", str(recipe_file), *overrides]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]

    def run(launcher, name, *more, **variables):
        done = subprocess.run(
            [*launcher, *module, *more, f"output.path={tmp_path / name}"],
            cwd=ROOT,
            env=environment(**variables),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return load_file(tmp_path / name / "model.safetensors"), read_metrics(tmp_path / name / "metrics.jsonl")

    two, metrics = run(torchrun, "two", ACCELERATE_USE_CPU="true")
    run(torchrun, "parts", "training.steps=2", ACCELERATE_USE_CPU="true")
    parts, _ = run(torchrun, "parts", ACCELERATE_USE_CPU="true")
    assert_same(parts, two)
    if streaming:
        # Each process reads its own half of the documents, so one process packs other rows.
        return
    one, expected = run([sys.executable], "one")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)
    assert [record["step"] for record in metrics] == [record["step"] for record in expected]
    for record, reference in zip(metrics, expected, strict=True):
        assert record.keys() == reference.keys()
        for key in record.keys() - {"seconds", "memory"}:
            assert record[key] == pytest.approx(reference[key], rel=1e-5), key
