# SPDX-License-Identifier: Apache-2.0
"""Subspaces in the loop: what an update sees, and that runs can be interrupted and spread over processes."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from hylora.training.moment import Moment
from tests.outcomes import assert_same, records_of
from tests.processes import launch
from tests.vision_extras import small
from vision_extras.models import load_network
from vision_extras.run import make_task
from vision_extras.subspaces import CompressibleSubspace, Curriculum, Sparsity, SubspaceRecipe, SubspaceTraining

SPARSE = {"growth": {}, "pruning": {}, "model.name": "resnet8", "subspace.kind": "line"}
# Images stay as large as they are, since norms of channels need several positions; a low rate keeps rounding small.
WIDE = {
    **SPARSE,
    "model.norm": "batch",
    "sampler": {},
    "subspace.compression": "width",
    "optimizer.lr": 0.005,
    "training.epochs": 2,
}


def test_losses_of_a_sandwich_are_summed():
    """Algorithm 1 by hand: one backward pass of the summed loss."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))
    other = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))
    subspace = CompressibleSubspace.line(network, Sparsity(), other=other)
    inputs, moment = torch.randn(4, 5), Moment(9, 10, 0)
    recipe = SubspaceRecipe(kind="line", samples=4)
    curriculum = Curriculum(subspace.compression, recipe)
    method = SubspaceTraining(subspace, curriculum)

    def accumulate():
        loss = subspace(inputs).square().sum()
        loss.backward()
        return loss.detach()

    method.begin(moment)
    reported = method.gradients(accumulate)
    found = {name: parameter.grad.clone() for name, parameter in subspace.named_parameters()}
    subspace.zero_grad()
    losses = []
    for alpha, level in curriculum.draws(moment):
        subspace.move(alpha, level)
        losses.append(subspace(inputs).square().sum())
    sum(losses).backward()
    assert len(losses) == 4
    torch.testing.assert_close(reported, sum(losses).detach() / 4)
    torch.testing.assert_close(found, {name: parameter.grad for name, parameter in subspace.named_parameters()})


def test_updates_stand_where_the_curriculum_says(tmp_path):
    seen = []

    def watch(task):
        network = task.model.network
        task.model.register_forward_pre_hook(
            lambda module, _: (
                seen.append((network.position.alpha, network.position.level)) if module.training else None
            )
        )

    settings = {**SPARSE, "training.batch_size": 64}
    small.train(tmp_path / "run", watch, **settings)
    recipe = small.recipe(**SPARSE).subspace
    curriculum = Curriculum(recipe.build(), recipe)
    records = records_of(tmp_path / "run")
    steps = records[-1]["step"]
    expected = [curriculum.draws(Moment(step, steps, 0))[0] for step in range(steps)]
    assert seen == expected
    assert [(record["alpha"], record["level"]) for record in records] == expected


@pytest.mark.parametrize(
    "settings",
    [
        SPARSE,
        pytest.param(
            {**SPARSE, "subspace.samples": 3, "sharpness.radius": 0.1, "average.decay": 0.9}, marks=pytest.mark.slow
        ),
        pytest.param({**SPARSE, "subspace.kind": "point", "subspace.targets": (0.5, 0.9)}, marks=pytest.mark.slow),
        pytest.param({**SPARSE, "subspace.compression": "bits", "subspace.warmup": 0.5}, marks=pytest.mark.slow),
        pytest.param(WIDE, marks=pytest.mark.slow),
        pytest.param({**WIDE, "subspace.kind": "point", "subspace.norm": "keep"}, marks=pytest.mark.slow),
    ],
    ids=["line", "sandwich with other methods", "targets", "bits", "widths", "widths with batch norms"],
)
def test_every_interruption_gives_the_same_run(tmp_path, settings):
    _, whole = small.train(tmp_path / "whole", **settings)
    for number in (3, 8):
        folder = tmp_path / str(number)
        stop = small.before_pass(number, lambda: os.kill(os.getpid(), signal.SIGTERM))
        result, _ = small.train(folder, stop, **settings)
        assert result.stopped_by == "SIGTERM"
        _, resumed = small.train(folder, **settings, **{"training.resume": True})
        assert_same(resumed, whole)
        assert records_of(folder) == records_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [SPARSE, WIDE, {**SPARSE, "subspace.compression": "bits"}], ids=["sparsity", "width", "bits"]
)
def test_two_processes_are_one(tmp_path, settings):
    """Every process draws the same levels, and gradients of all of them are averaged."""
    settings = {**settings, "training.batch_size": 16, "evaluation.at_end": True}
    recipe = small.recipe(tmp_path / "run", **settings)
    recipe.save(tmp_path / "recipe.yaml")

    def run(processes):
        folder = tmp_path / str(processes)
        launch(processes, "-m", "tests.vision_extras.command", tmp_path / "recipe.yaml", f"output.path={folder}")
        return load_file(folder / "model.safetensors"), records_of(folder)

    (one, expected), (two, found) = run(1), run(2)
    assert one.keys() == two.keys()
    # Inputs' ranges are of the images that a process sees in a pass.
    loose = 10 if settings.get("subspace.compression") == "bits" else 1
    for name in one:
        times = loose if name.endswith(".ranges") else 1
        torch.testing.assert_close(two[name], one[name], rtol=times * 1e-2, atol=times * 1e-3)
    for record, reference in zip(found, expected, strict=True):
        assert record == pytest.approx(reference, rel=loose * 1e-2, abs=loose * 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, {"kind": "point"}, {"kind": "point", "norm": "keep"}, {"kind": "point", "targets": (0.25, 0.5, 0.75, 1)}],
    ids=["LCS+L", "LCS+P", "Sandwich", "Discrete"],
)
def test_widths_come_out_of_a_run(tmp_path, settings):
    chosen = {f"subspace.{name}": value for name, value in settings.items()}
    result, state = small.train(tmp_path, **{**WIDE, "evaluation.at_end": True, **chosen})
    subspace, images = load_network(result.folder).eval(), torch.rand(2, 1, 8, 8)
    kinds = {type(module) for module in subspace.export(1.0).modules()}
    batch_norms = "norm" in settings or "targets" in settings
    assert ((nn.BatchNorm2d in kinds), (nn.GroupNorm in kinds)) == (batch_norms, not batch_norms)
    sizes = []
    for level in (0.25, 0.6, 1.0):
        plain = subspace.export(level)
        assert torch.equal(plain(images), subspace.at_level(level)(images))
        sizes.append(sum(value.numel() for value in plain.parameters()))
    assert sizes[0] < 0.15 * sizes[2] < sizes[1] < sizes[2]
    for name, value in subspace.network.state_dict().items():
        assert torch.equal(value, state[f"network.network.{name}"])


def plain_network(channels, classes):
    """A factory of one's own."""

    class Means(nn.Module):
        def forward(self, x):
            return x.mean((-2, -1))

    return nn.Sequential(nn.Conv2d(channels, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), Means(), nn.Linear(8, classes))


@pytest.mark.parametrize("name", ["resnet8", f"{__name__}:plain_network"])
def test_lines_of_drawn_networks_begin_with_two_ends(name):
    network = make_task(small.recipe(**{**SPARSE, "model": {"name": name}}), Accelerator(cpu=True)).model.network
    weights = [value for name, value in network.named_parameters() if "weight.original" in name and value.ndim > 1]
    assert all((first != second).any() for first, second in zip(weights[::2], weights[1::2], strict=True))


def test_lines_of_networks_that_are_given_begin_at_their_weights():
    recipe = small.recipe(**{**SPARSE, "model": {"name": "resnet8"}})
    network = make_task(recipe, Accelerator(cpu=True), network=plain_network(1, 10)).model.network
    weights = [value for name, value in network.named_parameters() if "weight.original" in name]
    assert all(torch.equal(first, second) for first, second in zip(weights[::2], weights[1::2], strict=True))
