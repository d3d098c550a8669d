# SPDX-License-Identifier: Apache-2.0
"""Training in phases is what a loop by hand does, holds its masks, and survives interruptions around each boundary."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from hylora.training.checkpoint import checkpoint_steps, load_checkpoint
from hylora.training.moment import Moment
from hylora.training.recipe import ScheduleRecipe
from hylora.training.whole_run import run
from tests.outcomes import assert_same, records_of
from tests.training import toy
from vision_extras.copies import WeightCopies
from vision_extras.masks import Masks, gone, prunable
from vision_extras.sharpness import Sharpness
from vision_extras.sparse import SparseRecipe
from vision_extras.sparse.phased import Phased, check_network
from vision_extras.sparse.phases import plan_phases

# Fourteen updates of two passes each, two to an epoch: dense, sparse, dense, sparse, dense, and two sparse epochs.
STEPS, EPOCHS = 14, 7
ALTERNATING = {"schedule": "alternating", "warmup": 1, "sparse": 1, "dense": 1, "last_dense": 1, "last_sparse": 2}
SPARSE, RETURNS = {2, 3, 6, 7, 10, 11, 12, 13}, {4, 8}
GRADUAL = {"schedule": "gradual", "warmup": 1, "sparse": 2, "last_sparse": 2}
# 32 weights can go, of which no third of a pattern divides the first layer's.
WEIGHTS = {"layers.0.weight": (8, 3), "layers.3.weight": (1, 8)}


class Pairs:
    """Two updates make an epoch."""

    def epoch(self, step):
        return step // 2

    def first_step(self, epoch):
        return 2 * epoch


def make_task(dropout=0.2, batch_size=2, sparsity=0.7, **options):
    task = toy.ToyTask(dropout=dropout, batch_size=batch_size)
    recipe = SparseRecipe(**{**ALTERNATING, "sparsity": sparsity, **options})
    layers, masks, dense = task.model.layers, Masks(), WeightCopies()
    if recipe.schedule == "fixed":
        with torch.no_grad():
            layers[0].weight[::2] = 0
    phases, weights = plan_phases(recipe, EPOCHS), partial(prunable, layers, recipe.keep)
    check_network(recipe, layers)
    phased = Phased(layers, masks, weights, phases, Pairs(), recipe.scope, recipe.fresh_momentum, dense)
    task.model.masks, task.model.dense, task.methods = masks, dense, [phased]
    return task


def train(folder, task, optimizer="sgd", **options):
    """Train; gives how it ended and the model's state."""
    torch.seed()
    made = toy.make_recipe(folder, steps=STEPS, optimizer=optimizer, **{"checkpoint_every": 1, **options})
    constant = ScheduleRecipe(name="constant", warmup_steps=0)
    made = replace(made, optimizer=replace(made.optimizer, weight_decay=0.1, schedule=constant))
    return run(made, lambda recipe, accelerator: task), toy.state_of(task)


def checkpoints_of(folder):
    for step in checkpoint_steps(folder / "checkpoints"):
        yield step, load_checkpoint(folder / "checkpoints" / f"step-{step:06d}").tensors


def masks_of(weights):
    return {name.removeprefix("masks.").replace("/", "."): mask for name, mask in weights.items() if "masks." in name}


# By hand


def by_hand(optimizer, level, scope, fresh, steps=STEPS):
    """Algorithm 1 in a plain loop with torch's optimizers; weights after each update, and the last dense ones."""
    task = toy.ToyTask(dropout=0.0)
    parameters = {name: p for name, p in task.model.named_parameters() if p.requires_grad}
    trained = list(parameters.values())

    def build():
        if optimizer == "sgd":
            return torch.optim.SGD(trained, lr=0.05, momentum=0.9, weight_decay=0.1)
        return torch.optim.AdamW(trained, lr=0.05, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)

    taken, masks, dense, found = build(), {}, None, []
    for step in range(steps):
        with torch.no_grad():
            if step in SPARSE and step - 1 not in SPARSE:
                dense = {name: p.clone() for name, p in parameters.items()}
                away = gone({name: parameters[name].abs() for name in WEIGHTS}, level, scope)
                masks = {name: ~each for name, each in away.items()}
                for name, mask in masks.items():
                    parameters[name] *= mask
        if step in RETURNS:
            masks = {}
            if fresh:
                taken = build()
        batches = task.feed.window(Moment(step, steps, 0))
        taken.zero_grad()
        count = sum(int(batch["weight"].sum()) for batch in batches)
        for batch in batches:
            (task.model(**batch)[0] / max(count, 1)).backward()
        for name, mask in masks.items():
            parameters[name].grad *= mask
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        taken.step()
        with torch.no_grad():
            for name, mask in masks.items():
                parameters[name] *= mask
        found.append({name: p.detach().clone() for name, p in parameters.items()})
    return found, dense


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "kept"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("level", "scope"), [(0.7, "global"), (0.6, "erk"), ("2:4", "global")])
def test_each_update_is_that_of_a_loop_by_hand(tmp_path, optimizer, level, scope, fresh):
    task = make_task(dropout=0.0, sparsity=level, scope=scope, fresh_momentum=fresh)
    train(tmp_path, task, optimizer)
    expected, dense = by_hand(optimizer, level, scope, fresh)
    for step, tensors in checkpoints_of(tmp_path):
        for name, value in expected[step - 1].items():
            torch.testing.assert_close(tensors["weights"][name], value, msg=f"{name} after update {step}")
    for name, value in dense.items():
        copied = toy.state_of(task)[f"dense.{name.removeprefix('layers.').replace('.', '/')}"]
        torch.testing.assert_close(copied, value, msg=name)


def test_what_is_accumulated_is_one_pass(tmp_path):
    _, parts = train(tmp_path / "parts", make_task(dropout=0.0))
    _, whole = train(tmp_path / "whole", make_task(dropout=0.0, batch_size=4), batch_size=4)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, msg=name)


# What holds after each update


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("level", "count"), [(0.7, 22), ("2:4", 4)])
def test_what_is_gone_is_zero_and_returns_without_momentum(tmp_path, optimizer, level, count):
    """Exactly so much, in each sparse phase; the first layer's three inputs are no multiple of four."""
    train(tmp_path, make_task(sparsity=level), optimizer)
    earlier = None
    for step, tensors in checkpoints_of(tmp_path):
        weights, masks = tensors["weights"], masks_of(tensors["weights"])
        zeros = sum(int((weights[f"layers.{name}"] == 0).sum()) for name in masks)
        if step - 1 not in SPARSE:
            # Some are dead: rows of the first layer whose outgoing weight went too.
            assert zeros < count
            continue
        assert zeros == count and all((weights[f"layers.{name}"][~mask] == 0).all() for name, mask in masks.items())
        if step - 2 in SPARSE:
            assert_same(masks, earlier)
        earlier = masks


def test_the_optimizer_forgets_everything_when_weights_return(tmp_path):
    """After the first update of a dense phase momentum is that update's gradient alone, of weights and biases."""
    seen = {}

    class Looking(Phased):
        def gradients(self, accumulate):
            loss = super().gradients(accumulate)
            seen[self.step] = {name: p.grad.clone() for name, p in self._network.named_parameters()}
            return loss

        def begin(self, moment):
            self.step = moment.step
            return super().begin(moment)

    task = make_task(dropout=0.0)
    task.methods[0].__class__ = Looking
    train(tmp_path, task, max_grad_norm=None)
    before = None
    for step, tensors in checkpoints_of(tmp_path):
        if step - 1 in RETURNS:
            for name, gradient in seen[step - 1].items():
                (momentum,) = (value for key, value in tensors["optimizer"].items() if f"layers.{name}" in key)
                torch.testing.assert_close(momentum, gradient + 0.1 * before[f"layers.{name}"])
        before = tensors["weights"]


def test_another_source_of_gradients_leaves_it_at_zero(tmp_path):
    task, seen = make_task(), []
    task.methods.append(Sharpness(task.model, 0.5))

    def look(module, inputs):
        if task.methods[0].masking:
            masks, weights = masks_of(task.model.state_dict()), task.model.state_dict()
            seen.append(sum(float(weights[f"layers.{name}"][~mask].abs().sum()) for name, mask in masks.items()))

    task.model.register_forward_pre_hook(look)
    train(tmp_path, task)
    assert len(seen) == 4 * len(SPARSE) and not any(seen)


def test_gradual_pruning_only_takes_away(tmp_path):
    task = make_task(**GRADUAL)
    train(tmp_path, task)
    levels = [phase.level for phase in task.methods[0].phases]
    assert len(levels) == 4 and levels == sorted(levels)
    gone_so_far = None
    for step, tensors in checkpoints_of(tmp_path):
        masks = masks_of(tensors["weights"])
        (phase,) = (p for p in task.methods[0].phases if p.first <= (step - 1) // 2 < p.end)
        assert sum(int((~mask).sum()) for mask in masks.values()) == int(phase.level * 32)
        if gone_so_far is not None:
            assert not any((gone_so_far[name] & mask).any() for name, mask in masks.items())
        gone_so_far = {name: ~mask for name, mask in masks.items()}
    assert [found["mask_change"] for found in task.methods[0].history] == [None, None, 0.0, 0.0]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_fixed_keeps_to_the_zeros_that_were_there(tmp_path, optimizer):
    task = make_task(schedule="fixed")
    assert not task.methods[0].dense_outcome
    train(tmp_path, task, optimizer)
    for _, tensors in checkpoints_of(tmp_path):
        weight = tensors["weights"]["layers.0.weight"]
        assert (weight[::2] == 0).all() and (weight[1::2] != 0).all()
    (found,) = task.methods[0].history
    assert found["sparsity"] == pytest.approx(12 / 32) and found["pruned_filters"] == pytest.approx(4 / 9)


# What is told


def test_what_becomes_of_the_weights_is_on_record(tmp_path):
    task = make_task(sparsity=0.3)
    train(tmp_path, task, "adamw", record_every=100)
    history, weights = task.methods[0].history, {step: each["weights"] for step, each in checkpoints_of(tmp_path)}
    masks = {step: masks_of(each) for step, each in weights.items()}
    assert [(found["first"], found["epochs"]) for found in history] == [(n, 1) for n in range(5)] + [(5, 2)]
    assert [found["sparsity"] for found in history] == pytest.approx([0, 9 / 32] * 3)
    zeros = [sum(int((weights[step][name] == 0).sum()) for name in WEIGHTS) / 32 for step in (2, 6, 10)]
    assert [found["inactive"] for found in history] == [zeros[0], None, zeros[1], None, zeros[2], None] and any(zeros)

    def change(before, after):
        kept = sum(int(mask.sum()) for mask in masks[after].values())
        return sum(int((mask & ~masks[before][name]).sum()) for name, mask in masks[after].items()) / kept

    changes = [None, None, None, change(4, 8), None, change(8, 14)]
    assert [found["mask_change"] for found in history] == changes and any(changes)
    rows = [(~masks[step][name]).all(1) for step in (4, 8, 14) for name in ("0.weight", "3.weight")]
    filters = [int(torch.cat(rows[n : n + 2]).sum()) / 9 for n in (0, 2, 4)]
    assert [found["pruned_filters"] for found in history[1::2]] == filters
    recorded = {record["step"]: record for record in records_of(tmp_path)}
    assert recorded[7]["mask_change"] == changes[3] and recorded[11]["mask_change"] == changes[5]
    assert recorded[10]["inactive"] == zeros[2] and recorded[14]["pruned_filters"] == filters[2]
    # The first and the last update of each phase.
    assert set(recorded) == {*range(1, 12), 14}


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
    ("optimizer", "options"),
    [
        ("sgd", {}),
        pytest.param("adamw", {}, marks=pytest.mark.slow),
        pytest.param("sgd", GRADUAL, marks=pytest.mark.slow),
        pytest.param("sgd", {"schedule": "fixed"}, marks=pytest.mark.slow),
    ],
    ids=["alternating", "adamw", "gradual", "fixed"],
)
def test_every_interruption_gives_the_same_run(tmp_path, optimizer, options):
    """In each update, and so at each boundary, one before it and one after it."""
    whole_task = make_task(**options)
    _, whole = train(tmp_path / "whole", whole_task, optimizer, checkpoint_every=0)
    for number in range(1, 2 * STEPS, 2):
        folder = tmp_path / str(number)
        result, _ = train(folder, stopping(make_task(**options), number), optimizer, checkpoint_every=0)
        assert result.stopped_by == "SIGTERM"
        task = make_task(**options)
        _, resumed = train(folder, task, optimizer, checkpoint_every=0, resume=True)
        assert_same(resumed, whole)
        assert records_of(folder) == records_of(tmp_path / "whole")
        assert task.methods[0].history == whole_task.methods[0].history


def test_a_phase_that_begins_twice_is_the_same():
    """Also with weights that are zero on both sides of the threshold."""
    for level in (0.5, "2:4"):
        network, masks = nn.Sequential(nn.Linear(8, 4)), Masks()
        with torch.no_grad():
            network[0].weight[:, ::3] = 0
        recipe = SparseRecipe(**{**ALTERNATING, "sparsity": level})
        phased = Phased(network, masks, partial(prunable, network), plan_phases(recipe, EPOCHS), Pairs())
        phased.begin(Moment(2, STEPS, 0))
        once = {name: value.clone() for name, value in [*network.state_dict().items(), *masks.state_dict().items()]}
        phased.begin(Moment(2, STEPS, 0))
        assert_same({**network.state_dict(), **masks.state_dict()}, once)


# What cannot be


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (nn.BatchNorm1d(4), {}, "schedule='alternating' needs trained weights of more than one dimension"),
        (nn.Linear(6, 2), {"sparsity": "2:4"}, "sparsity='2:4' divides the input channels of no weight"),
        (nn.Linear(6, 2), {"schedule": "fixed"}, "schedule='fixed' keeps to the zeros that the network begins with"),
        (nn.Sequential(nn.Linear(6, 2)), {"keep": ("1",)}, "keep='1' must name a module that has weights"),
    ],
)
def test_networks_that_cannot_are_refused(network, options, message):
    with pytest.raises(ValueError) as caught:
        check_network(SparseRecipe(**{**ALTERNATING, **options}), network)
    assert str(caught.value).startswith(message)
