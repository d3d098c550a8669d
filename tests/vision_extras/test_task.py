# SPDX-License-Identifier: Apache-2.0
"""Classifying images on the loop: its arithmetic, and that what is scheduled happens."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from hylora.training.moment import Moment
from tests.outcomes import assert_same, records_of
from tests.vision_extras import small
from vision_extras.masks import prunable
from vision_extras.models import build_network, load_network
from vision_extras.run import make_task

PLAIN = {
    "sampler": {"name": "ssc_fbs"},
    "growth": {},
    "pruning": {},
    "model": {"name": "resnet8", "norm": "group"},
}


def test_an_update_sees_what_the_schedules_say(tmp_path):
    """Smaller images are more in an update, and a pass has at most as many pixels as one at the reference."""
    shapes = []

    def look(task):
        def note(module, inputs, keywords):
            if module.training:
                shapes.append(tuple(keywords["images"].shape))

        task.model.register_forward_pre_hook(note, with_kwargs=True)

    small.train(tmp_path, look)
    records = records_of(tmp_path)
    columns = {name: [record[name] for record in records] for name in ("epoch", "images", "height", "sparsity")}
    assert columns["epoch"] == sorted(columns["epoch"]) and set(columns["epoch"]) == {0, 1, 2, 3}
    assert len(shapes) > len(records)
    for epoch in range(4):
        seen = [images for e, images in zip(columns["epoch"], columns["images"], strict=True) if e == epoch]
        assert sum(seen) == columns["images"][0] == 181
    assert all(rows * side * side <= 32 * 8 * 8 for rows, _, side, _ in shapes)
    assert columns["sparsity"] == [0, 0, 0, 0, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.9), ("adamw", 0.0)])
def test_what_is_pruned_is_zero_in_every_later_checkpoint(tmp_path, optimizer, momentum):
    """Momentum and weight decay would move it."""
    settings = {**PLAIN, "optimizer": {"name": optimizer, "lr": 0.05, "weight_decay": 0.1}}
    if optimizer == "sgd":
        settings["optimizer"]["momentum"] = momentum
    settings |= {"pruning": {"sparsity": 0.5, "at": 2}, "output.checkpoint_every": 1, "training.epochs": 6}
    result, state = small.train(tmp_path, **settings)
    pruned_after = [step for step, record in enumerate(records_of(tmp_path), 1) if record["sparsity"]]
    found = None
    for step in pruned_after:
        weights = small.checkpoints(tmp_path)[step].tensors["weights"]
        masks = {key: value for key, value in weights.items() if key.startswith("masks.")}
        for key, mask in masks.items():
            weight = weights[key.replace("masks.", "network.").replace("/", ".")]
            assert (weight[~mask] == 0).all() and (weight[mask] != 0).all()
        found = found or masks
        assert_same(masks, found)
    total = sum(mask.numel() for mask in found.values())
    assert sum(int((~mask).sum()) for mask in found.values()) == total // 2 and len(pruned_after) == 13
    exported = load_network(result.folder).state_dict()
    assert_same(exported, {key[8:]: value for key, value in state.items() if key.startswith("network.")})


def test_growth_carries_the_optimizers_state(tmp_path):
    """Stopped in the first pass after growth: what is saved is the old state in its corner, and zeros beside it."""
    settings = {"output.checkpoint_every": 1, "sampler": {"name": "ssc_fbs"}, "pruning": {}}
    small.train(tmp_path / "before", **settings)
    first = next(record["step"] for record in records_of(tmp_path / "before") if record["epoch"] == 1) - 1
    passes = sum(-(-record["images"] // 32) for record in records_of(tmp_path / "before")[:first])
    stop = small.before_pass(passes + 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    small.train(tmp_path / "grown", stop, **{**settings, "output.checkpoint_every": 0})
    before, grown = (small.checkpoints(tmp_path / name)[first].tensors for name in ("before", "grown"))
    larger = 0
    for group in ("weights", "optimizer"):
        for name, value in before[group].items():
            corner = tuple(map(slice, value.shape))
            assert torch.equal(grown[group][name][corner], value), name
            if group == "optimizer" and grown[group][name].shape != value.shape:
                rest = grown[group][name].clone()
                rest[corner] = 0
                assert not rest.any(), name
                larger += 1
    assert larger > 10


def test_sharpness_is_one_step_by_hand(tmp_path):
    """Up by the radius along the gradient of the whole batch, the gradient there, and down from where it was."""
    settings = {**PLAIN, "training.epochs": 1, "training.global_batch_size": 256, "training.batch_size": 128}
    settings["optimizer"] = {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    made, batches = [], []

    def look(task):
        made.append({name: value.clone() for name, value in task.model.network.state_dict().items()})
        batches.extend(task.feed.window(Moment(0, 1, 0)))

    _, state = small.train(tmp_path, look, **settings, **{"sharpness.radius": 0.2})
    images, labels = (torch.cat([batch[name] for batch in batches]) for name in ("images", "labels"))
    (before,) = made

    def gradients(weights):
        weights = {name: value.clone().requires_grad_() for name, value in weights.items()}
        network = build_network(small.recipe(**PLAIN).model, 1, 10, torch.Generator())
        loss = F.cross_entropy(torch.func.functional_call(network, weights, images), labels)
        return loss, dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))

    loss, first = gradients(before)
    norm = torch.cat([gradient.flatten() for gradient in first.values()]).norm()
    _, second = gradients({name: before[name] + 0.2 * first[name] / norm for name in before})
    for name in before:
        torch.testing.assert_close(state[f"network.{name}"], before[name] - 0.1 * second[name], rtol=1e-4, atol=1e-5)
    assert records_of(tmp_path)[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    plainly = max(float((first[name] - second[name]).abs().max()) for name in before)
    assert plainly > 1e-2  # an ordinary step would not pass


def test_sharpness_leaves_pruned_weights_where_they_are(tmp_path):
    moved = []

    def watch(task):
        def look(module, inputs):
            for name, weight in prunable(module.network).items():
                mask = module.masks[name]
                moved.append(float(weight.detach()[~mask].abs().sum()))

        task.model.register_forward_pre_hook(look)

    small.train(tmp_path, watch, **{**PLAIN, "pruning": {"sparsity": 0.5, "at": 1}, "sharpness.radius": 0.2})
    assert len(moved) > 32 and not any(moved)


@pytest.mark.parametrize("precision", ["float32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_it_learns_real_digits(tmp_path, precision):
    """While it grows, and with half of the weights gone."""
    settings = {**PLAIN, "images.held_out": 0.5, "model": {"name": "resnet8"}, "optimizer": {"lr": 0.1}}
    settings |= {"growth": {"width": 0.5, "until": 0.3}, "pruning": {"sparsity": 0.5, "at": 5}}
    settings |= {"training": {"epochs": 8, "global_batch_size": 32, "batch_size": 32, "mixed_precision": precision}}
    result, _ = small.train(tmp_path, **settings, evaluation={"batch_size": 900})
    assert result.evaluation["accuracy"] > 0.9
    weights = prunable(load_network(result.folder)).values()
    total = sum(weight.numel() for weight in weights)
    assert sum(int((weight == 0).sum()) for weight in weights) == total // 2


def test_results_have_what_training_took(tmp_path):
    """Of a run whose network grows, operations are those of each epoch's network."""
    full = {"growth": {}, "pruning": {}}
    small.train(tmp_path / "full", **full)
    small.train(tmp_path / "grown")
    found = {name: json.loads((tmp_path / name / "results.json").read_text()) for name in ("full", "grown")}
    assert found["full"]["updates"] == found["grown"]["updates"] == 7
    assert found["full"]["images_seen"] == found["grown"]["images_seen"] == 4 * 181
    assert found["full"]["parameters"] == found["grown"]["parameters"]
    assert 0.3 < found["grown"]["flops"] / found["full"]["flops"] < 0.9
    assert (found["full"]["sparsity"], found["grown"]["sparsity"]) == (0, pytest.approx(0.5, abs=1e-3))


def test_a_sharded_models_gathered_state_is_what_is_saved(tmp_path):
    """The task's own parameters are then shares of the weights."""
    recipe = small.recipe(tmp_path)
    task = make_task(recipe, Accelerator(cpu=True))
    state = {name: torch.full_like(value, 2.0) for name, value in task.model.state_dict().items()}
    task.save(tmp_path, state)
    assert all((value == 2.0).all() for value in load_network(tmp_path).state_dict().values())
