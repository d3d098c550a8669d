# SPDX-License-Identifier: Apache-2.0
"""What pre-training takes, against sums over its updates and what a run says of itself."""

from __future__ import annotations

import json

import pytest
import yaml
from accelerate import Accelerator

from tests import command_line
from tests.vision_extras import small
from tests.vision_extras.mavil.tiny import LEARNER
from vision_extras.curricula import Plan
from vision_extras.mavil import planning
from vision_extras.mavil.operations import clip_flops
from vision_extras.mavil.planning import plan_run
from vision_extras.mavil.recipe import MavilRecipe
from vision_extras.mavil.run import make_task

TREE = {
    "task": "mavil",
    "clips": {"name": "spoken_digits", "count": 40, "seconds": 1.0, "bands": 64, "frames": 4, "side": 16},
    "model": LEARNER,
    "mask": {"first": 0.9, "last": 0.6, "adaptive": True},
    "training": {"epochs": 3, "global_batch_size": 8, "batch_size": 8},
}


def recipe(**settings):
    return small.made(MavilRecipe, TREE, "unused", **settings)


def test_epochs_take_what_their_updates_sum_to():
    made, clips = recipe(), 100
    plan = plan_run(made, clips)
    # 0.4 / 0.1, 0.4 / 0.25 and 0.4 / 0.4 of eight clips.
    assert [(epoch.epoch, epoch.clips) for epoch in plan.epochs] == [(0, 32), (1, 12), (2, 8)]
    assert [epoch.mask_ratio for epoch in plan.epochs] == pytest.approx([0.9, 0.75, 0.6])
    updates = Plan(made.mask, clips, 3, 8, 8, made.training.seed)
    flops, counts = [0] * 3, [0] * 3
    for step in range(updates.steps):
        for rows, ratio in updates.batches(step):
            flops[updates.epoch(step)] += 3 * rows * clip_flops(made.model, made.clips, ratio)["total"]
        counts[updates.epoch(step)] += 1
    assert [epoch.flops for epoch in plan.epochs] == flops
    assert [epoch.updates for epoch in plan.epochs] == counts and plan.updates == updates.steps


def test_a_run_says_the_same_of_itself():
    made = recipe()
    task, plan = make_task(made, Accelerator(cpu=True)), plan_run(made)
    found = task.results()
    planned = plan.flops, plan.parameters, 3 * plan.rows, plan.updates
    assert planned == (found["flops"], found["parameters"], found["clips_seen"], task.steps)


def test_the_reference_is_the_plain_learner_with_masks_as_at_the_end():
    plain = {"model.diffusion": False, "model.video_attention": "self", "mask.first": 0.6, "mask.adaptive": False}
    plan, reference = plan_run(recipe(), 100), plan_run(recipe(**plain), 100)
    assert reference.share == 1 and plan.dense == reference.dense == reference.epochs[-1].flops
    assert plan.share == plan.flops / reference.flops < 1
    assert plan.reference == reference.reference == "MAViL, masks 0.6"
    assert plan_run(recipe(**{"model.video": False}), 100).name == "AudioMAE with diffusion"


def test_no_clip_is_read_where_their_number_is_given(monkeypatch):
    """And a learner of the thesis's size, with frames of two patches a side, is never allocated."""
    monkeypatch.setattr(planning, "load_clips", None)
    made = MavilRecipe.from_tree(
        {
            "task": "mavil",
            "clips": {"name": "audioset", "path": "missing", "side": 32},
            "training": {"epochs": 1, "global_batch_size": 50, "batch_size": 50},
            "output": {"path": "unused"},
        }
    )
    plan = plan_run(made, 2_000_000)
    assert plan.parameters > 2e8 and plan.updates == 2_000_000 // 50 == 40_000


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe().to_tree()))
    return str(file)


def test_the_command_shows_writes_and_draws_a_plan(path, tmp_path):
    files = [tmp_path / name for name in ("plan.json", "plan.png")]
    result = command_line.run("plan", path, "--json", str(files[0]), "--plot", str(files[1]))
    assert result.exit_code == 0, result.output
    plan = json.loads(files[0].read_text())
    assert [epoch["clips"] for epoch in plan["epochs"]] == [32, 12, 8]
    assert plan["clips"] == 3 * plan_run(recipe()).rows and f"{plan['flops_over_dense']:.3f}" in result.output
    for text in ("MAViL with diffusion, 3 epochs", "over MAViL, masks 0.6", "0.750"):
        assert text in result.output
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_planned_is_refused(path):
    for arguments, message in (
        (["--budget", "0.5"], "budget=0.5 is for recipes of images"),
        (["clips.name=folder", "clips.path=missing", "clips.count=2000"], "clips.path='missing'"),
    ):
        result = command_line.run("plan", path, *arguments)
        assert isinstance(result.exception, ValueError) and message in str(result.exception)
