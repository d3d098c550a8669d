# SPDX-License-Identifier: Apache-2.0
"""A run that is interrupted, wherever, or spread over workers and processes, is the same run."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hylora.training.checkpoint import CheckpointError
from hylora.training.recipe import RecipeError
from tests.outcomes import assert_same, records_of
from tests.vision_extras import small
from vision_extras.images import Images

ROOT = Path(__file__).parents[2]


def stop_at(number):
    return small.before_pass(number, lambda: os.kill(os.getpid(), signal.SIGTERM))


@pytest.fixture(autouse=True, scope="module")
def quick_growth():
    """A growing network is followed by a search for garbage, which would go through all that other tests left."""
    gc.freeze()
    yield
    gc.unfreeze()


EVERYTHING = {
    "sharpness.radius": 0.1,
    "average.decay": 0.9,
    "signals": {"fisher": 8, "draws": 2, "kl_uniform": True},
    "augment": {"shift": 1, "mixup": 0.2, "cutmix": 1.0, "erase": 0.25, "label_smoothing": 0.1},
}


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        pytest.param({}, range(1, 11, 3), id="growth and pruning", marks=pytest.mark.slow),
        pytest.param(EVERYTHING, (5, 13, 17), id="every method"),
    ],
)
def test_every_interruption_gives_the_same_run(tmp_path, settings, passes):
    """Stopped at one pass after another, and resumed each time."""
    _, whole = small.train(tmp_path / "whole", **settings)
    for number in passes:
        folder = tmp_path / str(number)
        result, _ = small.train(folder, stop_at(number), **settings)
        assert result.stopped_by == "SIGTERM" and result.steps < 7, number
        _, resumed = small.train(folder, **settings, **{"training.resume": True})
        assert_same(resumed, whole)
        assert records_of(folder) == records_of(tmp_path / "whole")


@pytest.mark.parametrize("crashed_in", [9, *(pytest.param(at, marks=pytest.mark.slow) for at in (4, 6))])
def test_resumed_from_an_old_checkpoint_it_is_the_same_run(tmp_path, crashed_in):
    """A crash loses what came after the last checkpoint: before, at and after growth and pruning."""

    def crash():
        raise RuntimeError("crash")

    settings = {"output.checkpoint_every": 2, "evaluation.every": 2}
    _, whole = small.train(tmp_path / "whole", **settings)
    with pytest.raises(RuntimeError, match="crash"):
        small.train(tmp_path / "halves", small.before_pass(crashed_in, crash), **settings)
    _, resumed = small.train(tmp_path / "halves", **settings, **{"training.resume": True})
    assert_same(resumed, whole)
    assert records_of(tmp_path / "halves") == records_of(tmp_path / "whole")


def test_workers_make_the_same_batches(tmp_path):
    _, alone = small.train(tmp_path / "alone")
    _, helped = small.train(tmp_path / "helped", **{"training.workers": 2})
    assert_same(helped, alone)


def test_images_that_changed_are_refused(tmp_path, monkeypatch):
    small.train(tmp_path, **{"output.checkpoint_every": 2})
    monkeypatch.setattr(Images, "fingerprint", lambda images: "other")
    with pytest.raises(CheckpointError, match="would not go on as it was: images"):
        small.train(tmp_path, **{"output.checkpoint_every": 2, "training.resume": True})


def test_a_run_of_other_epochs_is_another_run(tmp_path):
    small.train(tmp_path)
    with pytest.raises(RecipeError, match=r"other values of training.epochs \(4 -> 3\)"):
        small.train(tmp_path, **{"training.epochs": 3, "training.resume": True})


# Whole processes


def command(recipe, *overrides, processes=1):
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [*launcher, "-m", "tests.vision_extras.command", str(recipe), "training.resume=true", *overrides]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def finish(call, stops=False):
    done = subprocess.run(call, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert bool(done.returncode) == stops, done.stderr


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    small.recipe(tmp_path / "run").save(path)
    return path


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_goes_on(recipe_file, tmp_path):
    """kill -9, again and again, each time a little later."""
    longer = ["training.epochs=40", "growth.until=0.05", "output.checkpoint_every=5", "training.workers=1"]
    call = command(recipe_file, *longer)
    finish([*call, f"output.path={tmp_path / 'whole'}"])
    metrics, kills = tmp_path / "run" / "metrics.jsonl", 0
    for kill in range(4):
        with subprocess.Popen(call, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL) as process:
            wanted, deadline = 17 * kill + 11, time.monotonic() + 120
            while process.poll() is None and (not metrics.exists() or len(records_of(tmp_path / "run")) < wanted):
                assert time.monotonic() < deadline
                time.sleep(0.005)
            kills += process.poll() is None
            process.kill()
    assert kills >= 3
    finish(call)
    assert_same(*(load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole")))
    assert records_of(tmp_path / "run") == records_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("radius", [0.0, 0.1], ids=["plain", "sharpness"])
def test_two_processes_are_one(recipe_file, tmp_path, radius):
    """Through growth and pruning; then two that are stopped when the network has grown, and go on."""
    settings = ["training.batch_size=16", "evaluation.every=2", "output.checkpoint_every=3"]
    settings += [f"sharpness.radius={radius}", "average.decay=0.9", "signals.fisher=8", "signals.kl_uniform=true"]
    if radius:
        # It makes rounding large enough that another weight of nearly the same size would go.
        settings.append("pruning.sparsity=0")

    def run(name, *more, processes=2):
        call = command(recipe_file, *settings, f"output.path={tmp_path / name}", processes=processes)
        if more:
            finish([*call, *more], stops=True)
        finish(call)
        return load_file(tmp_path / name / "model.safetensors"), records_of(tmp_path / name)

    one, expected = run("one", processes=1)
    two, found = run("two")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-2, atol=1e-3)
        assert (two[name] == 0).float().mean() == (one[name] == 0).float().mean(), name
    for record, reference in zip(found, expected, strict=True):
        assert record == pytest.approx(reference, rel=1e-2, abs=1e-3)

    parts, resumed = run("parts", "--stop-at", "14" if radius else "7")
    assert_same(parts, two)
    assert resumed == found
