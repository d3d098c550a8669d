# SPDX-License-Identifier: Apache-2.0
"""Every hook of the loop, on real images: what changes by step, masks, growth, and gradients taken twice."""

from __future__ import annotations

import os
import signal

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from hylora.training.moment import Moment
from tests.outcomes import assert_same, records_of
from tests.vision_extras import small
from vision_extras.models import ResidualNetwork
from vision_extras.run import make_task


def test_what_changes_by_step_is_on_record(tmp_path):
    shapes = []

    def watch(task):
        task.model.register_forward_pre_hook(
            lambda module, inputs, named: shapes.append(tuple(named["images"].shape)), with_kwargs=True
        )

    small.train(tmp_path, watch)
    found = records_of(tmp_path)
    columns = {name: [record[name] for record in found] for name in ("resolution", "images", "blocks", "sparsity")}
    assert columns["resolution"] == [4, 4, 6, 8, 8, 8, 8, 8]
    assert columns["images"] == [32, 32, 14, 8, 8, 8, 8, 8]
    assert columns["blocks"] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert columns["sparsity"] == pytest.approx([0, 0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5])
    assert shapes[:6] == [(16, 1, 4, 4)] * 4 + [(7, 1, 6, 6)] * 2 and shapes[6:] == [(4, 1, 8, 8)] * 10


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.9), ("adamw", 0.0)])
def test_what_is_pruned_is_zero_in_every_later_checkpoint(tmp_path, optimizer, momentum):
    """Momentum and weight decay would move it."""
    settings = {"optimizer.name": optimizer, "optimizer.momentum": momentum, "optimizer.lr": 0.05}
    settings["output.checkpoint_every"] = 1
    result, state = small.train(tmp_path, **settings, **{"training.steps": 12})
    gone = {}
    for step, checkpoint in small.checkpoints(tmp_path).items():
        weights = checkpoint.tensors["weights"]
        sparsity = records_of(tmp_path)[step - 1]["sparsity"]
        for key in [name for name in weights if name.startswith("masks.")]:
            weight, pruned = weights[key.replace("masks.", "network.").replace("/", ".")], ~weights[key]
            assert int(pruned.sum()) == int(sparsity * weight.numel())
            assert (weight[pruned] == 0).all() and (weight[~pruned] != 0).all()
            assert (pruned | ~gone.get(key, torch.zeros_like(pruned))).sum() == pruned.numel()
            gone[key] = pruned
    assert len(gone) == 4 and all(pruned.float().mean() == 0.5 for pruned in gone.values())
    exported = ResidualNetwork.load(result.folder).state_dict()
    assert_same(exported, {k[8:]: value for k, value in state.items() if k.startswith("network.")})


def test_growth_carries_the_optimizers_state(tmp_path):
    """Stopped in the first pass after growth: what is saved is the old state, and nothing for the new block."""
    small.train(tmp_path / "before", **{"output.checkpoint_every": 4})
    stop = small.before_pass(9, lambda: os.kill(os.getpid(), signal.SIGTERM))
    small.train(tmp_path / "grown", stop)
    before, grown = (small.checkpoints(tmp_path / name)[4].tensors for name in ("before", "grown"))
    assert_same(grown["optimizer"], before["optimizer"])
    assert {name: grown["weights"][name] for name in before["weights"]}.keys() == before["weights"].keys()
    assert_same({name: grown["weights"][name] for name in before["weights"]}, before["weights"])
    new = grown["weights"].keys() - before["weights"].keys()
    assert new and all("blocks.1" in name or "blocks/1" in name for name in new)
    assert all(f"{name}::momentum_buffer" in before["optimizer"] for name in before["weights"] if "masks" not in name)


def test_growth_keeps_the_loss(tmp_path):
    """Evaluated before and after the update that grows, at a rate of nearly zero."""
    settings = {"optimizer.lr": 1e-12, "pruning.sparsity": 0.0, "optimizer.schedule.name": "constant"}
    small.train(tmp_path, **settings, **{"evaluation.every": 1})
    losses = [record["eval_loss"] for record in records_of(tmp_path) if "eval_loss" in record]
    assert len(losses) == 8 and losses == pytest.approx([losses[0]] * 8, rel=1e-6)


def test_sharpness_is_one_step_by_hand(tmp_path):
    """Up by the radius along the gradient of the whole batch, the gradient there, and down from where it was."""
    plain = {"resolution.start": 8, "growth.at": [], "pruning.sparsity": 0.0, "training.steps": 1}
    update = {"optimizer.momentum": 0.0, "optimizer.weight_decay": 0.0, "optimizer.max_grad_norm": None}
    made, batches = [], []

    def look(task):
        made.append({name: value.clone() for name, value in task.model.network.state_dict().items()})
        batches.extend(task.feed.window(Moment(0, 1, 0)))

    _, state = small.train(tmp_path, look, **plain, **update, **{"sharpness.radius": 0.2})
    images, labels = (torch.cat([batch[name] for batch in batches]) for name in ("images", "labels"))
    (before,) = made

    def gradients(weights):
        weights = {name: value.clone().requires_grad_() for name, value in weights.items()}
        network = ResidualNetwork(small.recipe().model.config(1, 10), torch.Generator())
        loss = F.cross_entropy(torch.func.functional_call(network, weights, images), labels)
        return loss, dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))

    loss, first = gradients(before)
    norm = torch.cat([gradient.flatten() for gradient in first.values()]).norm()
    _, second = gradients({name: before[name] + 0.2 * first[name] / norm for name in before})
    rate = 0.1 * 0.5  # the first of two warm-up updates
    for name in before:
        torch.testing.assert_close(state[f"network.{name}"], before[name] - rate * second[name], rtol=1e-5, atol=1e-6)
    assert records_of(tmp_path)[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    plainly = max(float((first[name] - second[name]).abs().max()) for name in before)
    assert plainly > 1e-2  # an ordinary step would not pass


def test_sharpness_leaves_pruned_weights_where_they_are(tmp_path):
    moved = []

    def watch(task):
        def look(module, inputs):
            for name, weight in module.network.prunable().items():
                moved.append(float(weight.detach()[~module.masks[name]].abs().sum()))

        task.model.register_forward_pre_hook(look)

    small.train(tmp_path, watch, **{"sharpness.radius": 0.2})
    assert len(moved) > 32 and not any(moved)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_it_learns_real_digits(tmp_path, precision):
    """With everything that changes, and half of the blocks' weights gone."""
    result, _ = small.train(
        tmp_path,
        **{
            "images.held_out": 0.2,
            "model.width": 16,
            "resolution.final": 12,
            "optimizer": {"name": "adamw", "lr": 0.03, "schedule": {"name": "cosine", "warmup_steps": 5}},
            "training": {"steps": 150, "global_batch_size": 32, "batch_size": 32, "mixed_precision": precision},
            "evaluation": {"batch_size": 64},
        },
    )
    assert result.evaluation["accuracy"] > 0.9
    network = ResidualNetwork.load(result.folder)
    assert sum(int((weight == 0).sum()) for weight in network.prunable().values()) == 4 * 16 * 16 * 9 // 2


def test_a_sharded_models_gathered_state_is_what_is_saved(tmp_path):
    """The task's own parameters are then shares of the weights."""
    recipe = small.recipe(tmp_path)
    task = make_task(recipe, Accelerator(cpu=True))
    state = {name: torch.full_like(value, 2.0) for name, value in task.model.state_dict().items()}
    task.save(tmp_path, state)
    assert all((value == 2.0).all() for value in ResidualNetwork.load(tmp_path).state_dict().values())
