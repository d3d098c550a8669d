# SPDX-License-Identifier: Apache-2.0
"""Runs of the loop under samplers: what is on record, resuming, several processes, and what is refused."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from hylora.training.recipe import RecipeError
from hylora.training.whole_run import run
from tests.outcomes import assert_same, records_of
from tests.processes import launch
from vision_extras.images import load_split
from vision_extras.recipe import ImageRecipe
from vision_extras.run import make_task

POOL = {"smallest": 8, "largest": 16, "multiple": 4, "scales": 3}
SAMPLERS = {"msc_fbs": POOL, "msc_vbs": POOL, "msc_vbswc": {**POOL, "start": 0.5}}


def recipe(path, name, **sections):
    """Three epochs of a few digits."""
    tree = {
        "task": "images",
        "images": {"name": "digits", "held_out": 0.9},
        "model": {"name": "resnet8", "norm": "group", "width": 0.5},
        "sampler": {"name": name, **SAMPLERS[name]},
        "training": {"epochs": 3, "global_batch_size": 32, "batch_size": 16, "mixed_precision": "float32"},
        "evaluation": {"at_end": False},
        "tracking": {"progress": False},
        "output": {"path": str(path), "checkpoint_every": 3},
    }
    for section, values in sections.items():
        tree[section] = {**tree[section], **values}
    return ImageRecipe.from_tree(tree)


def test_batch_norm_never_sees_a_single_value(tmp_path):
    """One image is left over, of which the last features have one position."""
    sections = {
        "model": {"norm": "batch"},
        "sampler": {"smallest": 4, "largest": 4},
        "training": {"epochs": 1, "global_batch_size": 15, "batch_size": 15},
    }
    made = recipe(tmp_path, "msc_fbs", **sections)
    assert len(load_split(made.images).train) % 15 == 1
    assert run(made, make_task).steps == 12
    assert [record["images"] for record in records_of(tmp_path)] == [15] * 11 + [16]


@pytest.mark.parametrize("name", ["msc_fbs", "msc_vbswc"])
def test_updates_are_on_record_and_resumed(tmp_path, name):
    made = []

    def make(recipe, accelerator):
        made.append(make_task(recipe, accelerator))
        return made[-1]

    def crash(model, inputs):
        if model.training:
            calls.append(None)
        if len(calls) > 9:
            raise RuntimeError("crash")

    def crashing(recipe, accelerator):
        task = make(recipe, accelerator)
        task.model.register_forward_pre_hook(crash)
        return task

    calls = []
    run(recipe(tmp_path / "whole", name), make)
    plan = made[0].plan
    found = [(record["images"], record["height"], record["width"]) for record in records_of(tmp_path / "whole")]
    assert found == [(rows, *shape) for step in range(plan.steps) for rows, shape in plan.batches(step)]
    assert len({height for _, height, _ in found}) > 1

    with pytest.raises(RuntimeError, match="crash"):
        run(recipe(tmp_path / "parts", name), crashing)
    run(recipe(tmp_path / "parts", name, training={"resume": True, "workers": 1}), make)
    assert_same(made[-1].model.state_dict(), made[0].model.state_dict())
    assert records_of(tmp_path / "parts") == records_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("sampler", "model", "message"),
    [
        (
            {"multiple": 1, "smallest": 2, "start": 0.25},
            {"name": "resnet50"},
            "1x1 pixels are below the network's stride",
        ),
        ({"largest": 4}, {}, "sampler.smallest=8 must be at most largest=4"),
        ({"until": 0.0}, {}, "sampler.until=0.0 must be above 0"),
    ],
)
def test_what_is_refused_before_training(tmp_path, sampler, model, message):
    with pytest.raises(RecipeError, match=message):
        settings = {"model": {**model, "width": 1.0, "norm": "batch"}}
        run(recipe(tmp_path, "msc_vbswc", sampler=sampler, **settings), make_task)


def test_passes_without_images_are_refused():
    """Before training, and as the recipe's fault."""
    settings = {"sampler": {"shape_per_rank": True}, "training": {"batch_size": 1}}
    accelerator = SimpleNamespace(num_processes=2, process_index=0, distributed_type=DistributedType.MULTI_CPU)
    message = r"sampler.name='msc_vbs': 16 forward passes need .* a reference batch of 32 leaves it 7 of \(12, 12\)"
    with pytest.raises(RecipeError, match=message):
        make_task(recipe("unused", "msc_vbs", **settings), accelerator)


@pytest.mark.slow
def test_two_processes_make_the_updates_of_one(tmp_path):
    """But for rounding, which grows with the updates."""
    runs = {}
    for processes in (1, 2):
        path = tmp_path / f"{processes}.yaml"
        recipe(tmp_path / str(processes), "msc_vbswc", training={"batch_size": 8}).save(path)
        launch(processes, "-m", "hylora.train", path)
        runs[processes] = load_file(tmp_path / str(processes) / "model.safetensors")
    for name, value in runs[1].items():
        torch.testing.assert_close(runs[2][name], value, rtol=0, atol=1e-3)
    for one, two in zip(*(records_of(tmp_path / processes) for processes in "12"), strict=True):
        assert two == pytest.approx(one, rel=1e-3) if one["step"] < 10 else two["images"] == one["images"]


@pytest.mark.slow
def test_two_processes_have_shapes_of_their_own(tmp_path):
    """Every image is counted once in each epoch, at resolutions that are often no one process's own."""
    recipe(tmp_path / "run", "msc_vbs", sampler={"shape_per_rank": True}).save(tmp_path / "run.yaml")
    launch(2, "-m", "hylora.train", tmp_path / "run.yaml")
    found, images = records_of(tmp_path / "run"), Counter()
    for record in found:
        images[record["epoch"]] += record["images"]
    assert len(images) == 3 and len(set(images.values())) == 1
    assert any(record["height"] not in (8, 12, 16) for record in found)
