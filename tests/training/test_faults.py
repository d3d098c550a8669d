# SPDX-License-Identifier: Apache-2.0
"""Training under faults: kills, full disks, rotten bits, two runs at once (docs/reliability.md)."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
import torch

from hylora.files import PARTIAL, write_atomically
from hylora.training.checkpoint import CheckpointError, checkpoint_steps
from hylora.training.loop import TrainingError
from hylora.training.recipe import RecipeError
from hylora.training.run_folder import RunFolder
from tests.outcomes import assert_same, records_of
from tests.training import toy


@pytest.fixture
def whole(tmp_path):
    """Make an uninterrupted run; gives its weights and records."""

    def make(task=None, **options):
        folder = tmp_path / "whole"
        toy.whole_run(folder, task, **options)
        return toy.results_of(folder), records_of(folder)

    return make


def forked(work):
    """Run `work` in a process of its own; gives its number."""
    process = os.fork()
    if process == 0:
        try:
            work()
        finally:
            os._exit(0)
    return process


def wait_for(path):
    """Until another process has made a file, for ten seconds at most."""
    for _ in range(1000):
        if path.exists():
            return
        time.sleep(0.01)


def test_kills_at_any_moment_lose_nothing(tmp_path, whole):
    """Killed 25 times at random moments: in updates, while a checkpoint is written, while the folder is claimed."""
    weights, records = whole(steps=12, checkpoint_every=1)
    folder, draw = tmp_path / "killed", random.Random(0)
    for _ in range(25):
        process = forked(lambda: toy.whole_run(folder, steps=12, checkpoint_every=1, resume=True))
        time.sleep(draw.uniform(0.0, 0.25))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    toy.whole_run(folder, steps=12, checkpoint_every=1, resume=True)
    assert_same(weights, toy.results_of(folder))
    assert records_of(folder) == records
    assert not list(folder.rglob(f"{PARTIAL}*"))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("moment", ["before the recipe", "after the recipe"])
def test_a_kill_while_a_folder_is_claimed_does_not_block_it(tmp_path, whole, monkeypatch, overwrite, moment):
    weights, _ = whole()
    folder = tmp_path / "claimed"
    if overwrite:
        toy.whole_run(folder, seed=1)

    def killed(path, data):
        if moment == "after the recipe":
            write_atomically(path, data)
        os.kill(os.getpid(), signal.SIGKILL)

    def die():
        monkeypatch.setattr("hylora.training.recipe_loading.write_atomically", killed)
        toy.whole_run(folder, overwrite=overwrite)

    _, status = os.waitpid(forked(die), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    toy.whole_run(folder, overwrite=overwrite, resume=not overwrite)
    assert_same(weights, toy.results_of(folder))


def damage_of(name, change):
    return pytest.param(name, change, id=f"{name}-{change.__name__}")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def zero(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def remove(path):
    path.unlink()


def replace_by_list(path):
    path.write_text("[]")


def rename(path):
    path.rename(path.with_name(f"old-{path.name}"))


def other_step(path):
    path.write_text(path.read_text().replace('"step": 6', '"step": 5'))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(damage_of("weights.safetensors", change) for change in (flip, zero, cut, remove, rename)),
        damage_of("optimizer.safetensors", flip),
        *(damage_of("state.json", change) for change in (flip, replace_by_list, other_step, remove)),
        *(damage_of("manifest.json", change) for change in (flip, replace_by_list, cut, remove)),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, whole, name, change, caplog):
    weights, records = whole()
    folder = tmp_path / "damaged"
    toy.whole_run(folder)
    (folder / toy.ToyTask.last_file).unlink()
    change(folder / "checkpoints" / "step-000006" / name)
    toy.whole_run(folder, resume=True)
    assert_same(weights, toy.results_of(folder))
    assert records_of(folder) == records
    # The damaged one is written anew.
    assert checkpoint_steps(folder / "checkpoints") == [2, 4, 6]


@pytest.mark.parametrize("change", [flip, cut])
def test_only_damaged_checkpoints_end_with_the_remedy(tmp_path, change):
    """They are no reason to train from the start."""
    toy.whole_run(tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*/weights.safetensors"):
        change(path)
    with pytest.raises(CheckpointError, match=r"all checkpoints in .* are damaged; delete the folder"):
        toy.whole_run(tmp_path / "run", resume=True)


def test_two_runs_never_share_a_folder(tmp_path, whole):
    weights, _ = whole()
    folder, started = tmp_path / "shared", tmp_path / "started"

    class Slow(toy.ToyTask):
        def end(self, moment):
            started.touch()
            time.sleep(60)

    holder = forked(lambda: toy.whole_run(folder, Slow(), checkpoint_every=1))
    try:
        wait_for(started)
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(RecipeError, match=rf"in use by process {holder} on .* since .*; wait for it"):
                toy.whole_run(folder, **options)
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
    # A holder that is gone, however it went, holds nothing.
    toy.whole_run(folder, resume=True)
    assert_same(weights, toy.results_of(folder))


class Poisoned(toy.ToyTask):
    """Its weights stop being finite after an update whose loss and gradients were."""

    def __init__(self, step, value):
        super().__init__()
        self.step, self.value = step, value

    def end(self, moment):
        if moment.step == self.step:
            with torch.no_grad():
                self.model.layers[3].bias.fill_(self.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_reach_no_checkpoint(tmp_path, value):
    with pytest.raises(TrainingError, match=r"layers\.3\.bias is not finite after update 3.*optimizer\.lr=0\.05"):
        toy.whole_run(tmp_path / "run", Poisoned(2, value), checkpoint_every=1)
    assert checkpoint_steps(tmp_path / "run" / "checkpoints") == [1, 2]


def test_weights_that_are_not_finite_reach_no_results(tmp_path):
    with pytest.raises(TrainingError, match="not finite after update 6"):
        toy.whole_run(tmp_path / "run", Poisoned(5, float("nan")), checkpoint_every=0)
    assert not list((tmp_path / "run").glob("*.safetensors"))


class Stopping(toy.ToyTask):
    """Asked to stop in its n-th evaluation."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def evaluate(self, model, accelerator, check_stop):
        if self.evaluations + 1 == self.number:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().evaluate(model, accelerator, check_stop)


@pytest.mark.parametrize("checkpoint_every", [0, 3])
def test_a_signal_is_heard_during_an_evaluation(tmp_path, whole, checkpoint_every):
    options = {"evaluate_every": 3, "checkpoint_every": checkpoint_every}
    weights, records = whole(**options)
    folder = tmp_path / "stopped"
    result = toy.whole_run(folder, Stopping(1), **options)
    assert (result.steps, result.stopped_by) == (3, "SIGTERM")
    assert checkpoint_steps(folder / "checkpoints") == [3]
    result = toy.whole_run(folder, resume=True, **options)
    assert result.steps == 6 and result.evaluation
    assert_same(weights, toy.results_of(folder))
    assert records_of(folder) == records


def test_a_signal_before_training_stops_the_run(tmp_path):
    def make_task(recipe, accelerator):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal must end this at once")

    recipe = toy.make_recipe(tmp_path / "run")
    result = toy.run_recipe(recipe, make_task)
    assert (result.steps, result.stopped_by) == (0, "SIGTERM")
    toy.whole_run(tmp_path / "run", resume=True)


def test_a_signal_while_results_are_written_waits_for_them(tmp_path, whole):
    weights, _ = whole()

    class Saving(toy.ToyTask):
        def save(self, folder, state):
            os.kill(os.getpid(), signal.SIGTERM)
            super().save(folder, state)

    assert toy.whole_run(tmp_path / "run", Saving()).stopped_by is None
    assert_same(weights, toy.results_of(tmp_path / "run"))


def test_results_that_cannot_be_written_do_not_lose_the_training(tmp_path, whole):
    weights, records = whole(checkpoint_every=0)

    class Failing(toy.ToyTask):
        def save(self, folder, state):
            (folder / "half").write_text("of it")
            raise OSError(28, "No space left on device")

    folder = tmp_path / "run"
    with pytest.raises(CheckpointError, match=r"could not be written.*No space left.*is saved in .*step-000006"):
        toy.whole_run(folder, Failing(), checkpoint_every=0)
    assert not list(folder.rglob("half"))
    toy.whole_run(folder, checkpoint_every=0, resume=True)
    assert_same(weights, toy.results_of(folder))
    assert records_of(folder) == records


@pytest.mark.parametrize("line", ["\0" * 64 + "\n", '{"step": 1, "lo', "[]\n", '{"loss": 1.0}\n', "\xff\n"])
def test_damaged_records_do_not_block_a_run(tmp_path, whole, line):
    weights, records = whole()
    folder = tmp_path / "run"
    toy.whole_run(folder)
    with open(folder / "metrics.jsonl", "a", encoding="latin-1") as file:
        file.write(line)
    toy.whole_run(folder, resume=True)
    assert_same(weights, toy.results_of(folder))
    assert records_of(folder) == records


def test_what_a_crash_left_of_an_export_goes(tmp_path):
    folder = tmp_path / "run"
    (folder / f"{PARTIAL}abc").mkdir(parents=True)
    (folder / f"{PARTIAL}abc" / "model.safetensors").write_bytes(bytes(1000))
    toy.whole_run(folder)
    assert not list(folder.glob(f"{PARTIAL}*"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_what_was_saved(tmp_path, whole, small_disk):
    weights, records = whole(steps=12, checkpoint_every=2)
    folder, ballast = small_disk / "run", small_disk / "ballast"

    class Filling(toy.ToyTask):
        def end(self, moment):
            if moment.step == 6:
                with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
                    while file.write(bytes(512)):
                        pass

    with pytest.raises(CheckpointError, match="No space left"):
        toy.whole_run(folder, Filling(), steps=12, checkpoint_every=2)
    assert checkpoint_steps(folder / "checkpoints") == [2, 4, 6]
    ballast.unlink()
    toy.whole_run(folder, steps=12, checkpoint_every=2, resume=True)
    assert_same(weights, toy.results_of(folder))
    assert records_of(folder) == records


class Normalised(toy.ToyTask):
    """Has batch statistics, which torch updates without telling."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = [torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Linear(8, 1)]
        self.model.layers = torch.nn.Sequential(*layers)


def test_batch_statistics_are_those_of_the_last_update(tmp_path, whole):
    weights, _ = whole(task=Normalised(), checkpoint_every=0)
    for forward in range(1, 12):
        task, forwards = Normalised(), []
        original = task.model.forward

        def interrupted(*args, original=original, forwards=forwards, forward=forward, **kwargs):
            forwards.append(1)
            if len(forwards) == forward:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*args, **kwargs)

        task.model.forward = interrupted
        folder = tmp_path / str(forward)
        toy.whole_run(folder, task, checkpoint_every=0)
        toy.whole_run(folder, Normalised(), checkpoint_every=0, resume=True)
        assert_same(weights, toy.results_of(folder))


def test_the_environment_does_not_scale_gradients(tmp_path, whole, monkeypatch):
    weights, _ = whole()
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    toy.whole_run(tmp_path / "run")
    assert_same(weights, toy.results_of(tmp_path / "run"))


class Wider(toy.ToyTask):
    """Gets a layer as anyone would write it, drawn from torch's generator."""

    def begin(self, moment):
        if moment.step < 2 or len(self.model.layers) > 4:
            return False
        self.model.layers.append(torch.nn.Linear(1, 1))
        return True


def test_layers_that_draw_from_torchs_generator_resume(tmp_path, whole):
    weights, _ = whole(task=Wider(), checkpoint_every=1)
    folder = tmp_path / "run"
    toy.whole_run(folder, Wider(), checkpoint_every=1)
    # Back to the checkpoint before the layer came.
    for step in range(3, 7):
        shutil.rmtree(folder / "checkpoints" / f"step-{step:06d}")
    toy.whole_run(folder, Wider(), checkpoint_every=1, resume=True)
    assert_same(weights, toy.results_of(folder))


def test_a_signal_that_comes_twice_is_one_request(tmp_path):
    """Schedulers signal launcher and processes, and the launcher passes it on."""

    class Twice(toy.ToyTask):
        def end(self, moment):
            if moment.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)

    assert toy.whole_run(tmp_path / "run", Twice(), checkpoint_every=0).stopped_by == "SIGTERM"
    assert checkpoint_steps(tmp_path / "run" / "checkpoints") == [3]


def test_workers_outlive_a_signal_to_the_whole_session(tmp_path):
    """As launchers send it. A worker that died by it would take the training process down before it has saved."""

    class Slow(toy.ToyTask):
        def end(self, moment):
            (tmp_path / "started").touch()
            time.sleep(0.2)

    def work():
        os.setsid()
        task = Slow()
        task.feed = toy.RowFeed(task.rows, task.collate, toy.WindowSize(4, 2), workers=2)
        toy.whole_run(tmp_path / "run", task, steps=200, checkpoint_every=0)

    process = forked(work)
    wait_for(tmp_path / "started")
    os.killpg(process, signal.SIGTERM)
    os.waitpid(process, 0)
    assert checkpoint_steps(tmp_path / "run" / "checkpoints")


def test_results_may_be_folders(tmp_path):
    class Foldered(toy.ToyTask):
        def save(self, folder, state):
            super().save(folder, state)
            (folder / "parts").mkdir()
            (folder / "parts" / "one").write_text(str(time.time()))

    toy.whole_run(tmp_path / "run", Foldered())
    first = (tmp_path / "run" / "parts" / "one").read_text()
    toy.whole_run(tmp_path / "run", Foldered(), resume=True)
    assert (tmp_path / "run" / "parts" / "one").read_text() != first


def test_replacing_a_run_leaves_nothing_that_looks_finished(tmp_path):
    folder = tmp_path / "run"
    toy.whole_run(folder)
    with pytest.raises(TrainingError):
        toy.whole_run(folder, Poisoned(0, float("nan")), checkpoint_every=1, overwrite=True)
    assert not (folder / toy.ToyTask.last_file).exists() and not (folder / "model.safetensors").exists()


def test_a_second_run_of_one_process_does_not_take_the_folder_of_the_first(tmp_path):
    """Nor does it leave the first one without its lock."""
    folder = RunFolder(tmp_path)
    with folder.locked():
        with pytest.raises(RecipeError, match="in use by another run of this process"), RunFolder(tmp_path).locked():
            pass
        assert (tmp_path / ".lock").exists()
    with folder.locked():
        pass
