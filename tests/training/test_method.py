# SPDX-License-Identifier: Apache-2.0
"""What methods change of a task's training, and what they keep when it is interrupted."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from datetime import datetime

import pytest
import torch

from hylora.training.method import Method
from hylora.training.whole_run import run
from tests.outcomes import assert_same, records_of
from tests.training import toy


class Halving(Method):
    """Halves the rate from the update on after which a loss was first seen below a bound that it keeps."""

    name = "halving"

    def __init__(self):
        self.since = None

    def gradients(self, accumulate):
        self.loss = float(accumulate())
        return torch.tensor(self.loss)

    def end(self, moment):
        if self.since is None and self.loss < 3.0:
            self.since = moment.step + 1

    def rate(self, moment, factor):
        return factor if self.since is None or moment.step < self.since else factor / 2

    def scheduled(self, moment):
        return {"halved": int(self.since is not None)}

    def state(self):
        return {"since": self.since}

    def restore(self, state):
        self.since = state["since"]


class Twice(Method):
    """Takes gradients twice, outside of the methods before it."""

    def __init__(self, calls):
        self.calls = calls

    def gradients(self, accumulate):
        self.calls.append("twice")
        accumulate()
        return accumulate()


class Once(Method):
    def __init__(self, calls):
        self.calls = calls

    def gradients(self, accumulate):
        self.calls.append("once")
        return accumulate()


def task_with(*methods):
    task = toy.ToyTask()
    task.methods = methods
    return task


def test_a_method_changes_the_rate_and_the_record(tmp_path):
    method = Halving()
    toy.run(tmp_path, task_with(method), steps=8)
    records = records_of(tmp_path)
    plain, _ = toy.run(tmp_path / "plain", steps=8)
    expected = [record["lr"] for record in records_of(tmp_path / "plain")]
    assert 0 < method.since < 8 and plain.step == 8
    for step, record in enumerate(records):
        assert record["lr"] == pytest.approx(expected[step] / (2 if step >= method.since else 1))
        assert record["halved"] == int(step + 1 >= method.since)


@pytest.mark.parametrize("at", range(2, 8, 2))
def test_a_methods_state_is_kept_when_a_run_is_interrupted(tmp_path, at):
    """The resumed run does not see the losses that made the method act."""
    _, whole = toy.run(tmp_path / "whole", task_with(Halving()), steps=8)
    toy.run(tmp_path / "parts", task_with(Halving()), steps=8)
    for step in range(at + 2, 9, 2):
        _remove_checkpoint(tmp_path / "parts", step)
    method = Halving()
    _, resumed = toy.run(tmp_path / "parts", task_with(method), resume=True, steps=8)
    assert_same(resumed, whole)
    assert records_of(tmp_path / "parts") == records_of(tmp_path / "whole")


def _remove_checkpoint(folder, step):
    path = folder / "checkpoints" / f"step-{step:06d}"
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


def test_later_methods_take_gradients_around_earlier_ones(tmp_path):
    calls = []
    toy.run(tmp_path, task_with(Once(calls), Twice(calls)), steps=1)
    assert calls == ["twice", "once", "once"]


def test_every_method_begins_each_update(tmp_path):
    """Also those after one that changed the parameters."""
    begun = []

    class Begins(Method):
        def __init__(self, name):
            self.name = name

        def begin(self, moment):
            begun.append((self.name, moment.step))
            return moment.step == 1

    toy.run(tmp_path, task_with(Begins("a"), Begins("b")), steps=3)
    assert begun == [(name, step) for step in range(3) for name in "ab"]


def test_a_task_may_know_its_number_of_updates(tmp_path):
    task = toy.ToyTask()
    task.steps = 3
    outcome, _ = toy.run(tmp_path, task, steps=99)
    assert outcome.step == 3
    assert records_of(tmp_path)[-1]["lr"] == pytest.approx(0.05 * 0.25)  # a cosine at two thirds


def test_results_are_written_with_what_the_loop_knows(tmp_path):
    task = toy.ToyTask()
    task.results = lambda: {"trees": 7}
    toy.whole_run(tmp_path / "run", task, steps=4, evaluate_every=2)
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (found["kind"], found["updates"], found["trees"]) == ("training", 4, 7)
    assert found["recipe"]["training"]["steps"] == 4 and found["environment"]["torch"] == torch.__version__
    assert datetime.fromisoformat(found["created"]).tzinfo is not None
    assert found["evaluation"].keys() == {"loss"} and found["peak_bytes"] > 0 and found["seconds"] > 0
    toy.whole_run(tmp_path / "run", toy.ToyTask(), steps=4, overwrite=True)
    assert not (tmp_path / "run" / "results.json").exists()


def test_what_is_measured_at_the_end_is_among_the_results(tmp_path):
    """Of the trained model, in evaluation mode; a signal during it stops the run, which can then go on."""
    task, seen = toy.ToyTask(), []

    def measure(model, accelerator, check_stop):
        seen.append((model.training, int(model.seen)))
        if len(seen) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        check_stop()
        return {"heights": {"oak": 3}}

    task.results, task.measure = lambda: {"trees": 7}, measure
    stopped = toy.whole_run(tmp_path / "run", task, steps=2)
    assert stopped.stopped_by and not (tmp_path / "run" / "results.json").exists()
    toy.whole_run(tmp_path / "run", task, steps=2, resume=True)
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (found["heights"], found["trees"]) == ({"oak": 3}, 7)
    assert seen[0] == seen[1] and not seen[0][0]


def test_time_and_memory_are_those_of_all_parts_of_a_run(tmp_path):
    toy.run(tmp_path, steps=4)
    outcome, _ = toy.run(tmp_path, resume=True, steps=4)
    taken = [json.loads(line)["seconds"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert outcome.seconds == pytest.approx(sum(taken)) and outcome.memory > 0


class Remembers(Method):
    """Has a state only from its first update on."""

    name = "remembers"
    kept = None

    def end(self, moment):
        self.kept = [*(self.kept or []), moment.step]

    def state(self):
        return self.kept and {"kept": self.kept}

    def restore(self, state):
        self.kept = state["kept"]


def test_a_state_that_is_not_there_at_first_is_kept_too(tmp_path):
    toy.run(tmp_path, task_with(Remembers()), steps=4)
    _remove_checkpoint(tmp_path, 4)
    method = Remembers()
    toy.run(tmp_path, task_with(method), resume=True, steps=4)
    assert method.kept == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["", "halving"])
def test_methods_whose_states_could_not_be_told_apart_are_refused(tmp_path, name):
    other = Halving()
    other.name = name
    with pytest.raises(ValueError, match="must have each a name of their own"):
        toy.run(tmp_path, task_with(Halving(), other), steps=1)


class Forgetting(Method):
    """Has the optimizer forget all it has gathered, before some updates."""

    def __init__(self, model, steps):
        self.model, self.steps = model, steps

    def forgotten(self, moment):
        return self.model.parameters() if moment.step in self.steps else ()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_is_forgotten_at_each_update_is_as_if_it_were_the_first(tmp_path, optimizer):
    """Momentum that never lasts is none; with some that lasts, the weights are others."""
    found = {}
    for name, momentum, steps in (
        ("never", 0.9, ()),
        ("always", 0.9, range(6)),
        ("none", 0.0, ()),
        ("once", 0.9, [3]),
    ):
        task = toy.ToyTask(dropout=0.0)
        task.methods = [Forgetting(task.model, steps)]
        recipe = toy.make_recipe(tmp_path / name, optimizer=optimizer, checkpoint_every=0)
        changed = dataclasses.replace(recipe.optimizer, momentum=momentum) if optimizer == "sgd" else recipe.optimizer
        run(dataclasses.replace(recipe, optimizer=changed), lambda recipe, accelerator, task=task: task)
        found[name] = toy.state_of(task)
    different = {name: value for name, value in found["never"].items() if not torch.equal(value, found["once"][name])}
    assert different
    if optimizer == "sgd":
        assert_same(found["always"], found["none"])
