# SPDX-License-Identifier: Apache-2.0
"""Two processes of which one fails, is asked to stop, or loses its launcher. Nobody waits for ever."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from hylora.train import EXIT_STOPPED, EXIT_WRONG_RECIPE
from hylora.training.checkpoint import checkpoint_steps
from hylora.training.reporting import read_metrics
from tests.pages import ROOT
from tests.processes import command, environment, launch

pytestmark = pytest.mark.slow

# The toy task as `hylora.train` runs a task: `python program.py FOLDER WHAT`.
PROGRAM = """
import os, sys, time
from pathlib import Path
from hylora import train
from hylora.training.processes import on_all, share_of
from hylora.training.feed import RowFeed, WindowSize
from hylora.training.recipe import RecipeError
from hylora.training.tasks import TaskKind
from tests.training import toy

folder, what = sys.argv[1:3]
second = os.environ.get("RANK") == "1"
if second:
    Path(folder + ".pid").write_text(str(os.getpid()))


class Task(toy.ToyTask):
    def __init__(self, share):
        super().__init__()
        self.feed = RowFeed(self.rows, self.collate, WindowSize(4, 2), share)

    def begin(self, moment):
        if what == "long and slow":
            time.sleep(0.3)
        if what == "broken data" and second and moment.step == 3:
            raise OSError("the disk of the second process is gone")
        return False


def make(recipe, accelerator):
    def check():
        if what == "no model" and second:
            raise RecipeError("model.path='x' is not there")

    on_all(accelerator, check)
    return Task(share_of(accelerator))


recipe = toy.make_recipe(Path(folder), steps=100 if "long" in what else 6, resume=True)
recipe.save(Path(folder + os.environ.get("RANK", "") + ".yaml"))
kind = TaskKind(toy.Recipe, make)
train.find_task = lambda tree: kind
sys.exit(train.main([folder + os.environ.get("RANK", "") + ".yaml"]))
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def fails(program, folder, what):
    """Run two processes, which must end by themselves; gives what they said of errors, and each process's status."""
    call = command(2, program, folder, what)
    done = subprocess.run(call, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    return errors, done.stderr


def test_what_one_process_lacks_is_said_once(program, tmp_path):
    errors, output = fails(program, tmp_path / "run", "no model")
    assert errors == ["error: model.path='x' is not there"]
    assert f"exitcode  : {EXIT_WRONG_RECIPE} " in output
    assert "gloo" not in output and program.name not in re.findall(r'File "(.*?)"', output)


def test_a_process_that_fails_alone_says_so_and_ends_the_run(program, tmp_path):
    errors, _ = fails(program, tmp_path / "run", "broken data")
    assert errors == ["error in process 1: the disk of the second process is gone"]
    launch(2, program, tmp_path / "run", "go on")
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 6


def started(program, folder):
    """Two processes at work, and the number of the second."""
    process = subprocess.Popen(
        command(2, program, folder, "long and slow"), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while len(read_metrics(folder / "metrics.jsonl")) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    return process, int(folder.with_suffix(".pid").read_text())


def test_one_process_that_is_asked_to_stop_stops_both(program, tmp_path):
    process, second = started(program, tmp_path / "run")
    os.kill(second, signal.SIGTERM)
    _, output = process.communicate(timeout=60)
    # The launcher may signal the other one, too, when that has done all it had to.
    assert str(EXIT_STOPPED) in re.findall(r"exitcode  : (\S+)", output)
    done = checkpoint_steps(tmp_path / "run" / "checkpoints")[-1]
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == done < 100


def test_processes_that_lost_their_launcher_keep_their_folder(program, tmp_path):
    process, second = started(program, tmp_path / "run")
    process.kill()
    process.wait()
    process.stderr.close()
    another = subprocess.run(
        [sys.executable, program, tmp_path / "run", "long"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert another.returncode == EXIT_WRONG_RECIPE
    holder = int(re.search(r"is in use by process (\d+) on", another.stderr)[1])
    assert holder != second
    # Without the one, the other ends by itself.
    os.kill(holder, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while _runs(second):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    launch(1, program, tmp_path / "run", "long")
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 100


def _runs(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
