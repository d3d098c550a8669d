# SPDX-License-Identifier: Apache-2.0
"""The studies of chapter 2: branches are the runs from scratch, and the linear networks are what they say."""

from __future__ import annotations

import importlib.util
import math
import sys

import pytest
import torch
from safetensors.torch import load_file

from hylora.randomness import generator
from tests.outcomes import assert_same
from tests.pages import ROOT
from vision_extras.recipe import ImageRecipe
from vision_extras.run import train


def study(name):
    """A study's module."""
    path = ROOT / f"studies/pruning/{name}.py"
    spec = importlib.util.spec_from_file_location(f"studies_pruning_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


# The sweep


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["magnitude", "fisher"])
def test_a_branch_is_the_run_from_scratch(tmp_path, criterion):
    sweep = study("sweep")
    overrides = ["images.name=digits", "images.held_out=0.2", "sampler.side=4", "model.width=0.5"]
    overrides += ["training.epochs=4", "training.global_batch_size=512", "training.batch_size=512"]
    overrides += ["signals.fisher=8", f"pruning.criterion={criterion}"]
    made = sweep.Sweep(ROOT / "recipes/vision/pruning/mnist.yaml", overrides, tmp_path, tmp_path / "found.json")
    folder, dense = made.dense("exponential", 0)
    assert [epoch["epoch"] for epoch in dense["epochs"]] == [1, 2, 3, 4]
    assert all({"accuracy", "fisher", "fisher_error", "kl_uniform"} <= epoch.keys() for epoch in dense["epochs"])
    moments = [0, 1, 3, 4] if criterion == "magnitude" else [2]
    for at in moments:
        made.pruned("global 90 %", 0, at, folder)
        alone = tmp_path / f"alone-{at}"
        settings = [*overrides, "pruning.sparsity=0.9", f"pruning.at={at}", f"output.path={alone}"]
        train(ImageRecipe.load(ROOT / "recipes/vision/pruning/mnist.yaml", settings))
        branch = tmp_path / f"global_90_pc-0-{at}"
        assert_same(load_file(branch / "model.safetensors"), load_file(alone / "model.safetensors"))
    assert [run["at"] for run in made.results["pruned"]] == moments
    again = sweep.Sweep(ROOT / "recipes/vision/pruning/mnist.yaml", overrides, tmp_path, tmp_path / "found.json")
    assert again.results["pruned"] == made.results["pruned"]
    with pytest.raises(SystemExit, match="is of another recipe"):
        sweep.Sweep(ROOT / "recipes/vision/pruning/mnist.yaml", [], tmp_path, tmp_path / "found.json")


# The linear networks


def test_gradients_are_autograds():
    linear = study("linear")
    setting = linear.Setting(size=7, singular_values=(2.0, 1.0))
    draw = generator("test")
    data = linear.problem(setting, draw)
    first, second = (weight.requires_grad_() for weight in linear.first_weights(setting, draw))
    loss = (data.noisy - second @ first @ data.inputs).square().sum()
    loss.backward()
    found = linear.gradients(first.detach(), second.detach(), data.inputs @ data.inputs.T, data.noisy @ data.inputs.T)
    torch.testing.assert_close(found, (first.grad, second.grad), rtol=1e-4, atol=1e-5)


def test_the_teacher_has_the_singular_values_and_the_noise_its_variance():
    linear = study("linear")
    setting = linear.Setting(size=80)
    data = linear.problem(setting, generator("test"))
    teacher = data.clean @ torch.linalg.inv(data.inputs.double()).float()
    torch.testing.assert_close(
        torch.linalg.svdvals(teacher)[:4], torch.tensor([5.0, 3.5, 2.0, 0.0]), atol=1e-2, rtol=0
    )
    for noise in (data.noisy - data.clean, data.inputs):
        assert float(noise.var()) == pytest.approx(1 / 80, rel=0.1)


def test_the_smallest_of_both_matrices_go():
    linear = study("linear")
    first, second = linear.first_weights(linear.Setting(size=11), generator("test"))
    masks = linear.pruned(first, second, 0.9)
    gone = [int((~mask).sum()) for mask in masks]
    assert sum(gone) == math.floor(0.9 * 2 * 121) and min(gone) > 0
    largest = max(float(weight[~mask].abs().max()) for weight, mask in zip((first, second), masks, strict=True))
    assert all(float(weight[mask].abs().min()) > largest for weight, mask in zip((first, second), masks, strict=True))


def test_side_by_side_is_one_by_one():
    """Two seeds and three moments together, against gradient descent for each of them alone."""
    linear = study("linear")
    setting = linear.Setting(
        size=12, lr=0.02, loss="mean", epochs=40, sparsity=0.8, at=(0, 15, 40), watched=(15,), every=20
    )
    found = linear.run(setting, [0, 1])
    for seed, own in enumerate(found):
        for branch in own["pruned"]:
            draw = generator("linear", seed)
            data = linear.problem(setting, draw)
            weights = [weight.requires_grad_() for weight in linear.first_weights(setting, draw)]
            masks = [torch.ones(12, 12, dtype=torch.bool)] * 2
            for epoch in range(41):
                if epoch == branch["at"]:
                    masks = linear.pruned(*(weight.detach() for weight in weights), 0.8)
                    weights = [(w.detach() * m).requires_grad_() for w, m in zip(weights, masks, strict=True)]
                if epoch < 40:
                    loss = (data.noisy - weights[1] @ weights[0] @ data.inputs).square().sum() / 12
                    steps = torch.autograd.grad(loss, weights)
                    weights = [
                        ((w - 0.02 * step) * m).detach().requires_grad_()
                        for w, step, m in zip(weights, steps, masks, strict=True)
                    ]
            outputs = (weights[1] @ weights[0] @ data.inputs).detach()
            assert branch["train"] == pytest.approx(float((data.noisy - outputs).square().sum()), rel=1e-4)
            assert branch["test"] == pytest.approx(float((data.clean - outputs).square().sum()), rel=1e-4)
            values = torch.linalg.svdvals((weights[1] @ weights[0]).detach())[:8]
            assert branch["singular_values"] == pytest.approx(values.tolist(), abs=1e-3)
        assert [look["epoch"] for look in own["dense"]] == [0, 20, 40]
        course = own["course"]["15"]
        assert [look[0] for look in course] == [0, 20, 40] and course[-1][1:] == own["pruned"][1]["singular_values"]
