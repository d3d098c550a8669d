# SPDX-License-Identifier: Apache-2.0
"""Pruning in the course of training: masks hold, the rate starts again, and an interrupted run is the same run."""

from __future__ import annotations

import logging
import math
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from hylora.training.checkpoint import checkpoint_steps, load_checkpoint
from hylora.training.moment import Moment
from hylora.training.recipe import RecipeError, ScheduleRecipe
from hylora.training.whole_run import run
from tests.outcomes import assert_same, records_of
from tests.training import toy
from tests.vision_extras import small
from vision_extras.masks import Masks
from vision_extras.pruning import Pruning, PruningRecipe, Signal
from vision_extras.pruning.criteria import magnitude
from vision_extras.pruning.detector import DetectorRecipe
from vision_extras.run import TASK
from vision_extras.sharpness import Sharpness

# Twelve updates of two passes each, two to an epoch; 32 weights can be pruned.
STEPS, EPOCHS, WEIGHTS = 12, 6, 3 * 8 + 8
SCHEDULE = ScheduleRecipe(name="cosine", warmup_steps=0)


class Pairs:
    """Two updates make an epoch."""

    def epoch(self, step):
        return step // 2

    def first_step(self, epoch):
        return 2 * epoch


class Course(Signal):
    """A signal with given values, one for each update; an epoch's value is the mean of two."""

    label = "course"

    def __init__(self, values):
        self._values = values

    def end(self, moment):
        self.value = self._values[moment.step]


# By epochs 1, 4, 3, 2, 2, 2: it has turned when two values are seen below the highest.
TURNING = Course([0.0, 2.0, 3.0, 5.0, 3.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0])
DETECTOR = DetectorRecipe(window=1)


class Growing(toy.ToyTask):
    """Gets a layer before the eighth update."""

    def begin(self, moment):
        if moment.step < 7 or len(self.model.layers) > 4:
            return False
        self.model.layers.append(torch.nn.Linear(1, 1))
        torch.nn.init.ones_(self.model.layers[4].weight)
        return True


def make_task(at=2, signal=None, kind=toy.ToyTask, optimizer=None, sparsity=0.7, floor=0.001, dropout=0.2):
    task = kind() if kind is not toy.ToyTask else toy.ToyTask(dropout=dropout)
    task.model.masks = Masks()
    recipe = PruningRecipe(sparsity=sparsity, at=at, floor=floor, detector=DETECTOR)
    optimizer = optimizer or recipe_of("unused").optimizer
    layers = task.model.layers
    pruning = Pruning(layers, task.model.masks, recipe, optimizer, Pairs(), lambda moment: magnitude(layers), signal)
    task.methods = [pruning] if signal is None else [signal, pruning]
    return task


def recipe_of(folder, optimizer="sgd", schedule=SCHEDULE, resume=False, **options):
    made = toy.make_recipe(folder, steps=STEPS, optimizer=optimizer, resume=resume, **options)
    return replace(made, optimizer=replace(made.optimizer, weight_decay=0.1, schedule=schedule))


def train(folder, task, **options):
    """Train; gives how it ended and the model's state."""
    torch.seed()
    result = run(recipe_of(folder, **options), lambda recipe, accelerator: task)
    return result, toy.state_of(task)


def checkpoints_of(folder):
    for step in checkpoint_steps(folder / "checkpoints"):
        yield step, load_checkpoint(folder / "checkpoints" / f"step-{step:06d}").tensors["weights"]


def gone_in(weights):
    return {name: ~mask for name, mask in weights.items() if name.startswith("masks.")}


def weight_of(weights, key):
    return weights[key.replace("masks.", "layers.").replace("/", ".")]


# What goes, and stays gone


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("at", [0, 2, 6])
def test_what_is_gone_stays_at_zero(tmp_path, optimizer, at):
    """Through momentum and weight decay, in every checkpoint."""
    train(tmp_path, make_task(at), optimizer=optimizer, checkpoint_every=1)
    first = None
    for step, weights in checkpoints_of(tmp_path):
        gone = gone_in(weights)
        count = sum(int(mask.sum()) for mask in gone.values())
        assert count == (math.floor(0.7 * WEIGHTS) if step >= 2 * at else 0), step
        assert records_of(tmp_path)[step - 1]["sparsity"] == pytest.approx(count / WEIGHTS)
        for key, mask in gone.items():
            assert (weight_of(weights, key)[mask] == 0).all() and (weight_of(weights, key)[~mask] != 0).all()
        if count:
            first = first or gone
            assert_same(gone, first)
    assert first is not None


def test_the_smallest_weights_go_when_it_is_time(tmp_path):
    """All of them together: those of the last layer are larger."""
    train(tmp_path / "dense", make_task(sparsity=0.01, at=EPOCHS), checkpoint_every=1)
    train(tmp_path / "pruned", make_task(at=3), checkpoint_every=1)
    dense, pruned = (dict(checkpoints_of(tmp_path / name))[6] for name in ("dense", "pruned"))
    sizes = torch.cat([weight_of(dense, key).abs().flatten() for key in gone_in(dense)])
    mask = torch.cat([mask.flatten() for mask in gone_in(pruned).values()])
    assert sizes[mask].max() < sizes[~mask].min()
    left = [weight_of(pruned, key)[~mask] for key, mask in gone_in(pruned).items()]
    before = [weight_of(dense, key)[~mask] for key, mask in gone_in(pruned).items()]
    assert all(torch.equal(one, other) for one, other in zip(left, before, strict=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_goes_on_as_with_a_smaller_network(tmp_path, optimizer):
    """Against torch's optimizer by hand, whose momentum of what is gone is zero."""
    constant = ScheduleRecipe(name="constant", warmup_steps=0)
    task = make_task(at=2, dropout=0.0, optimizer=recipe_of("unused", schedule=constant).optimizer)
    _, state = train(tmp_path, task, optimizer=optimizer, schedule=constant)

    other = toy.ToyTask(dropout=0.0)
    parameters = dict(other.model.named_parameters())
    trained = [parameter for parameter in parameters.values() if parameter.requires_grad]
    if optimizer == "sgd":
        steps = torch.optim.SGD(trained, lr=0.05, momentum=0.9, weight_decay=0.1)
    else:
        steps = torch.optim.AdamW(trained, lr=0.05, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    masks = {}
    for step in range(STEPS):
        batches = other.feed.window(Moment(step, STEPS, 0))
        steps.zero_grad()
        count = sum(int(batch["weight"].sum()) for batch in batches)
        for batch in batches:
            (other.model(**batch)[0] / max(count, 1)).backward()
        for name, mask in masks.items():
            parameters[name].grad *= mask
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        steps.step()
        with torch.no_grad():
            if step == 3:
                weights = {name: p for name, p in parameters.items() if p.ndim > 1}
                threshold = torch.cat([p.abs().flatten() for p in weights.values()]).kthvalue(22).values
                masks = {name: p.abs() > threshold for name, p in weights.items()}
                for name, mask in masks.items():
                    for value in steps.state[parameters[name]].values():
                        if value.shape == mask.shape:
                            value *= mask
            for name, mask in masks.items():
                parameters[name] *= mask
    for name, parameter in parameters.items():
        torch.testing.assert_close(state[name], parameter.detach())


def test_a_network_may_grow_after_it_was_pruned(tmp_path):
    _, state = train(tmp_path, make_task(kind=Growing), checkpoint_every=1)
    assert state["masks.4/weight"].all() and state["layers.4.weight"] != 0
    assert sum(int(mask.sum()) for mask in gone_in(state).values()) == math.floor(0.7 * WEIGHTS)
    assert [record["sparsity"] for record in records_of(tmp_path)][6:8] == pytest.approx([22 / 32, 22 / 33])


def test_gradients_taken_elsewhere_leave_it_at_zero(tmp_path):
    task, seen = make_task(), []
    task.methods = [*task.methods, Sharpness(task.model, 0.5)]

    def look(module, inputs):
        masks = {name: ~mask for name, mask in task.model.state_dict().items() if name.startswith("masks.")}
        weights = task.model.state_dict()
        seen.append(sum(float(weight_of(weights, key)[mask].abs().sum()) for key, mask in masks.items()))

    task.model.register_forward_pre_hook(look)
    train(tmp_path, task)
    assert len(seen) == 4 * STEPS and not any(seen)


# The rate


def expected_rate(name, step, at, floor):
    """Section 2.5.1 in words: from the peak, by the factor per update as before or down to the end in what is left."""
    final = 0.05 if name == "exponential" else 0.0

    def plain(lr, step, steps):
        share = step / steps
        if name == "exponential":
            return lr * final ** (step / STEPS)
        return lr * (1 - share) if name == "linear" else lr * (1 + math.cos(math.pi * share)) / 2

    if step < 2 * at:
        return plain(0.05, step, STEPS)
    peak = max(floor, plain(0.05, 2 * at, STEPS))
    return plain(peak, step - 2 * at, STEPS - 2 * at)


@pytest.mark.parametrize("floor", [0.001, 0.03])
@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize("name", ["exponential", "cosine", "linear"])
def test_the_schedule_starts_again(tmp_path, name, at, floor):
    options = {"final": 0.05} if name == "exponential" else {}
    schedule = ScheduleRecipe(name=name, warmup_steps=0, **options)
    optimizer = recipe_of("unused", schedule=schedule).optimizer
    train(tmp_path, make_task(at, optimizer=optimizer, floor=floor), schedule=schedule)
    rates = [record["lr"] for record in records_of(tmp_path)]
    assert rates == pytest.approx([expected_rate(name, step, at, floor) for step in range(STEPS)])
    if at == 4 and floor == 0.03:
        assert rates[8] == pytest.approx(0.03) and rates[7] < 0.03


@pytest.mark.parametrize("name", ["exponential", "linear"])
def test_a_schedule_restarted_at_its_own_value_is_unchanged(tmp_path, name):
    schedule = ScheduleRecipe(name=name, warmup_steps=0, **({"final": 0.05} if name == "exponential" else {}))
    optimizer = recipe_of("unused", schedule=schedule).optimizer
    for folder, at in (("early", 2), ("late", EPOCHS)):
        train(tmp_path / folder, make_task(at, optimizer=optimizer, floor=0.0), schedule=schedule)
    early, late = ([record["lr"] for record in records_of(tmp_path / name)] for name in ("early", "late"))
    assert early == pytest.approx(late)


def test_a_warm_up_goes_on(tmp_path):
    schedule = ScheduleRecipe(name="linear", warmup_steps=4)
    optimizer = recipe_of("unused", schedule=schedule).optimizer
    train(tmp_path, make_task(at=0, optimizer=optimizer), schedule=schedule)
    rates = [record["lr"] for record in records_of(tmp_path)]
    assert rates == pytest.approx([0.05 * min(1, (s + 1) / 4) * (1 - s / STEPS) for s in range(STEPS)])


# The turn of a signal


def pruned_after(folder):
    """The updates made when the weights were gone."""
    return next(record["step"] for record in records_of(folder) if record["sparsity"])


def test_pruned_at_the_turn(tmp_path):
    train(tmp_path, make_task("detect", TURNING))
    assert pruned_after(tmp_path) == 2 * 4


def test_without_a_turn_pruned_at_the_end(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        train(tmp_path, make_task("detect", Course([1.0] * STEPS)))
    assert pruned_after(tmp_path) == STEPS
    assert "fisher did not turn" in caplog.text


def test_detection_needs_something_to_watch():
    with pytest.raises(ValueError, match="at='detect' needs a signal"):
        make_task("detect")


# Interrupted


def stopping(task, number):
    """The process gets a signal before the n-th forward pass of training."""
    seen = []

    def count(module, inputs):
        seen.append(module.training)
        if sum(seen) == number:
            os.kill(os.getpid(), signal.SIGTERM)

    task.model.register_forward_pre_hook(count)
    return task


@pytest.mark.parametrize(
    "settings",
    [
        {"at": 0},
        {"at": 2},
        {"at": "detect", "signal": TURNING},
        pytest.param({"at": 2, "kind": Growing}, marks=pytest.mark.slow),
    ],
    ids=["at the start", "after an epoch", "detected", "grown"],
)
def test_every_interruption_gives_the_same_run(tmp_path, settings):
    """Before, at and after pruning."""
    _, whole = train(tmp_path / "whole", make_task(**settings), checkpoint_every=0)
    for number in range(1, 2 * STEPS, 2):
        folder = tmp_path / str(number)
        result, _ = train(folder, stopping(make_task(**settings), number), checkpoint_every=0)
        assert result.stopped_by == "SIGTERM"
        _, resumed = train(folder, make_task(**settings), checkpoint_every=0, resume=True)
        assert_same(resumed, whole)
        assert records_of(folder) == records_of(tmp_path / "whole")


@pytest.mark.parametrize(("key", "value"), [("pruning.sparsity", 0.5), ("signals.fisher", 8)])
def test_sharded_weights_are_refused_before_any_update(tmp_path, key, value):
    off = {"growth": {}, "pruning.sparsity": 0.0}
    recipe = small.recipe(tmp_path, **{**off, key: value})
    with pytest.raises(RecipeError, match=f"{key}={value} cannot be had while parameters are sharded"):
        TASK.make(recipe, SimpleNamespace(distributed_type=DistributedType.FSDP))
