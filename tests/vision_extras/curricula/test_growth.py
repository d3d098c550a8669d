# SPDX-License-Identifier: Apache-2.0
"""Growth in the course of training: its schedule, what it keeps, and that interruptions change nothing of it."""

from __future__ import annotations

import gc
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from hylora.training.moment import Moment
from hylora.training.recipe import RecipeError
from hylora.training.whole_run import run
from tests.outcomes import assert_same, records_of
from tests.vision_extras.small import before_pass, checkpoints
from tests.vision_extras.test_resume import command, finish
from vision_extras.curricula import GrowthRecipe
from vision_extras.models import ModelRecipe, load_network
from vision_extras.models.resnet_config import scaled_depth, scaled_width
from vision_extras.recipe import ImageRecipe
from vision_extras.run import make_task

# Four epochs of three updates, each a pass of two; the network grows in width at the second and third epoch, and in
# depth at the third.
TREE = {
    "task": "images",
    "images": {"name": "digits", "held_out": 0.9},
    "model": {"name": "resnet20", "width": 0.5, "depth": 0.67},
    "growth": {"width": 0.5, "depth": 0.5, "until": 0.5},
    "training": {"epochs": 4, "global_batch_size": 64, "batch_size": 32, "mixed_precision": "float32"},
    "evaluation": {"at_end": False},
    "tracking": {"progress": False},
}


def recipe(folder, **sections):
    tree = {**TREE, "output": {"path": str(folder), "checkpoint_every": 0, "keep_checkpoints": 99}}
    return ImageRecipe.from_tree({**tree, **{key: {**tree.get(key, {}), **value} for key, value in sections.items()}})


def train(folder, prepare=lambda task: None, **sections):
    made = []

    def make(recipe, accelerator):
        made.append(make_task(recipe, accelerator))
        prepare(made[0])
        return made[0]

    result = run(recipe(folder, **sections), make)
    return result, {name: value.clone() for name, value in made[0].model.state_dict().items()}


@pytest.fixture(autouse=True, scope="module")
def quick_growth():
    """A growing network is followed by a search for garbage, which would go through all that other tests left."""
    gc.freeze()
    yield
    gc.unfreeze()


def stop_at(number):
    return before_pass(number, lambda: os.kill(os.getpid(), signal.SIGTERM))


@pytest.mark.parametrize("until", [0.5, 0.75, 0.95, 1.0])
@pytest.mark.parametrize("start", [0.25, 0.3, 1.0])
def test_the_schedule_is_equation_4_3(start, until):
    growth, epochs = GrowthRecipe(width=start, depth=1.0, until=until), 40
    factors = [growth.network_at(ModelRecipe(width=0.5), epoch, epochs) for epoch in range(epochs)]
    expected = [start + (1 - start) / (until * epochs) * e if e < until * epochs else 1 for e in range(epochs)]
    assert [model.width for model in factors] == pytest.approx([0.5 * factor for factor in expected])
    assert factors[0].width == 0.5 * start and {model.depth for model in factors} == {1.0}
    assert all(model.width == 0.5 for model in factors[round(until * epochs) :])
    assert factors == sorted(factors, key=lambda model: model.width)


def test_the_network_grows_at_the_first_update_of_an_epoch(tmp_path):
    shapes = []

    def watch(task):
        task.model.register_forward_pre_hook(
            lambda module, inputs: shapes.append(
                (module.network.head.in_features, sum(map(len, module.network.stages)))
            )
        )

    result, _ = train(tmp_path, watch)
    found = records_of(tmp_path)
    assert [record["epoch"] for record in found] == [epoch for epoch in range(4) for _ in range(3)]
    assert [record["width_factor"] for record in found[::3]] == pytest.approx([0.25, 0.375, 0.5, 0.5])
    assert [record["depth_factor"] for record in found[::3]] == pytest.approx([0.335, 0.5025, 0.67, 0.67])
    expected = [
        (scaled_width(64, record["width_factor"]), 3 * scaled_depth(3, record["depth_factor"])) for record in found
    ]
    assert shapes == [shape for shape in expected for _ in range(2)]
    assert list(dict.fromkeys(shapes)) == [(16, 3), (24, 6), (32, 6)]
    network = load_network(result.folder)
    assert network.config.width == 0.5 and network.config.depth == 0.67


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weights_statistics_and_the_optimizers_state_are_carried(tmp_path, optimizer):
    """Stopped in the first pass after growth: what is saved is what there was, and what is new has no momentum."""
    settings = {"optimizer": {"name": optimizer}}
    train(tmp_path / "before", output={"checkpoint_every": 3}, **settings)
    train(tmp_path / "grown", stop_at(7), **settings)
    before, grown = (checkpoints(tmp_path / name)[3].tensors for name in ("before", "grown"))
    entries = {"sgd": {"momentum_buffer"}, "adamw": {"exp_avg", "exp_avg_sq", "step"}}[optimizer]
    assert {key.rpartition("::")[2] for key in before["optimizer"]} == entries
    for what in ("weights", "optimizer"):
        corners = {key: grown[what][key][tuple(map(slice, value.shape))] for key, value in before[what].items()}
        assert_same(corners, before[what])
    assert grown["optimizer"].keys() == before["optimizer"].keys()
    larger = [key for key, value in before["optimizer"].items() if grown["optimizer"][key].shape != value.shape]
    assert any("head.weight" in key for key in larger) and any("stages.1.0" in key for key in larger)
    for key in larger:
        value = grown["optimizer"][key].clone()
        value[tuple(map(slice, before["optimizer"][key].shape))] = 0
        assert not value.any()
    new = grown["weights"].keys() - before["weights"].keys()
    assert new and all(".1.convolutions" in name for name in new)


@pytest.mark.parametrize(
    ("norm", "passes"),
    [("batch", (5, 7, 14)), pytest.param("group", (5, 6, 7, 8, 9, 13, 14, 15, 19), marks=pytest.mark.slow)],
)
def test_stopped_before_at_and_after_growth_it_is_the_same_run(tmp_path, norm, passes):
    _, whole = train(tmp_path / "whole", model={"norm": norm})
    for number in passes:
        folder = tmp_path / str(number)
        result, _ = train(folder, stop_at(number), model={"norm": norm})
        assert result.stopped_by == "SIGTERM" and result.steps == number // 2
        _, resumed = train(folder, model={"norm": norm}, training={"resume": True})
        assert_same(resumed, whole)
        assert records_of(folder) == records_of(tmp_path / "whole")


def test_new_weights_are_those_of_the_moment(tmp_path):
    def grown(step, seed):
        torch.manual_seed(step)
        task = make_task(recipe(tmp_path), Accelerator(cpu=True))
        assert task.methods[0].begin(Moment(step, task.steps, seed))
        assert not task.methods[0].begin(Moment(step, task.steps, seed))
        return task.model.state_dict()

    assert_same(grown(6, 0), grown(6, 0))
    name = "network.stages.0.1.convolutions.0.0.weight"
    assert not torch.equal(grown(6, 0)[name], grown(6, 1)[name])


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """With norms that do not depend on how images are spread; then two that are stopped at growth and go on."""
    path = tmp_path / "recipe.yaml"
    recipe(tmp_path, model={"norm": "group"}, training={"batch_size": 16}).save(path)

    def trained(name, *more, processes=2):
        call = command(path, f"output.path={tmp_path / name}", processes=processes)
        if more:
            finish([*call, *more], stops=True)
        finish(call)
        return load_file(tmp_path / name / "model.safetensors"), records_of(tmp_path / name)

    one, expected = trained("one", processes=1)
    two, found = trained("two")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)
    for record, reference in zip(found, expected, strict=True):
        assert record == pytest.approx(reference, rel=1e-3)
    # Each process has two passes in an update.
    parts, resumed = trained("parts", "--stop-at", "7")
    assert_same(parts, two)
    assert resumed == found


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0.0}, "width=0.0 must be above 0"),
        ({"depth": 1.2}, "depth=1.2 must be above 0 and at most 1"),
        ({"until": 0.0}, "until=0.0 must be above 0"),
        ({"until": 1.1}, "until=1.1 must be above 0 and at most 1"),
    ],
)
def test_schedules_that_do_not_grow_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GrowthRecipe(**settings)


def test_a_network_that_cannot_grow_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="growth.width=0.5 .*model.name='vgg11' cannot; use one of resnet8"):
        recipe(tmp_path, model={"name": "vgg11", "depth": 1.0})


def test_growth_of_sharded_parameters_is_refused_before_any_update(tmp_path):
    accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP)
    with pytest.raises(RecipeError, match="cannot be had while parameters are sharded over processes; train with DDP"):
        make_task(recipe(tmp_path), accelerator)
