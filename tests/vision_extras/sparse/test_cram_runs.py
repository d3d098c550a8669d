# SPDX-License-Identifier: Apache-2.0
"""Runs with compression-aware updates: interrupted, in small passes, in several processes, and with other methods."""

from __future__ import annotations

import copy
import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from hylora.training.recipe import RecipeError
from tests.outcomes import assert_same, records_of
from tests.processes import launch
from tests.vision_extras import small
from vision_extras.masks import prunable
from vision_extras.models.weights import read_weights
from vision_extras.run import TASK
from vision_extras.sparse.compression import compress

CRAM = {"update": "cram", "levels": [0.5, 0.9, "2:4"], "mask_every": 2, "plain": 0.2, "radius": 0.1}
SETTINGS = {"growth": {}, "pruning": {}, "model": {"name": "resnet8"}, "cram": CRAM}


def settings_of(**more):
    """Of their own, as a run's settings are put into them."""
    return copy.deepcopy(SETTINGS) | more


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return small.train(tmp_path_factory.mktemp("cram"), **settings_of())[1]


def test_masks_of_levels_are_in_the_state_and_batches_counted_once(finished):
    kept = {name.split(".")[1] for name in finished if name.startswith("level_masks.")}
    assert kept == {"0/5", "0/9", "2:4"}
    updates = {int(value) for name, value in finished.items() if name.endswith("num_batches_tracked")}
    assert len(updates) == 1


# Each update but ordinary ones has passes at two points.
@pytest.mark.parametrize(
    "number", [6, 9, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_a_run_that_is_interrupted_is_the_same_run(finished, tmp_path, number):
    stop = small.before_pass(number, lambda: os.kill(os.getpid(), signal.SIGTERM))
    result, _ = small.train(tmp_path, stop, **settings_of())
    assert result.stopped_by == "SIGTERM"
    _, resumed = small.train(tmp_path, **settings_of(**{"training.resume": True}))
    assert_same(resumed, finished)


def test_micro_batches_make_up_the_same_update(tmp_path):
    """Both passes add up their whole windows before anything moves."""
    found = []
    for size in (64, 8):
        settings = settings_of(**{"training.epochs": 1, "training.batch_size": size, "model.norm": "group"})
        found.append(small.train(tmp_path / str(size), **settings)[1])
    for name, value in found[0].items():
        if value.is_floating_point():
            torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-5)


# Their first pass is at compressed weights.
WITHOUT_OWN = pytest.mark.parametrize("update", ["topk", "csam"])


def without_own(update):
    return {"update": update, "plus": False, "levels": ["0.3-0.9"], "radius": 0.2}


@WITHOUT_OWN
def test_a_stop_at_compressed_weights_leaves_them_whole(tmp_path, update):
    settings = settings_of(cram=without_own(update))
    _, whole = small.train(tmp_path / "whole", **settings)
    stop = small.before_pass(5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    result, _ = small.train(tmp_path / "halves", stop, **settings)
    assert result.stopped_by == "SIGTERM"
    _, resumed = small.train(tmp_path / "halves", **settings, **{"training.resume": True})
    assert_same(resumed, whole)


@WITHOUT_OWN
def test_micro_batches_at_compressed_weights_make_up_the_same_update(tmp_path, update):
    found = []
    for size in (64, 16):
        more = {"training.epochs": 1, "training.batch_size": size, "model.norm": "group"}
        found.append(small.train(tmp_path / str(size), **settings_of(cram=without_own(update), **more))[1])
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("level, compressed", [("2:4", "groups"), ("4bit", "steps")])
def test_second_passes_see_patterns_and_bits(tmp_path, level, compressed):
    """The first pass of an update at whole weights, the second at compressed ones."""
    cram, seen = {"update": "cram", "levels": [level], "radius": 0.2}, []

    def watch(task):
        def look(module, inputs):
            if module.training:
                seen.append({name: weight.detach().clone() for name, weight in prunable(module.network).items()})

        task.model.register_forward_pre_hook(look)

    small.train(tmp_path, watch, **settings_of(cram=cram, **{"training.batch_size": 64}))
    assert len(seen) % 2 == 0 and len(seen) > 4
    for whole, other in zip(seen[::2], seen[1::2], strict=True):
        again = {name: value.clone() for name, value in other.items()}
        compress(again, level)
        torch.testing.assert_close(again, other, rtol=1e-5, atol=1e-7)
        if compressed == "groups":
            groups = [w.movedim(1, -1).unflatten(-1, (-1, 4)) for w in other.values() if w.shape[1] % 4 == 0]
            assert groups and all(((group == 0).sum(-1) >= 2).all() for group in groups)
        else:
            assert all(len(row.unique()) <= 15 for w in other.values() for row in w)
        assert not any(((w == 0).double().mean() > 0.3) for w in whole.values())


def test_pruned_weights_stay_where_they_are(tmp_path):
    """Neither the move up the gradient nor the sum of both gradients brings them back."""
    moved = []

    def watch(task):
        def look(module, inputs):
            for name, weight in prunable(module.network).items():
                moved.append(float(weight.detach()[~module.masks[name]].abs().sum()))

        task.model.register_forward_pre_hook(look)

    small.train(tmp_path, watch, **settings_of(pruning={"sparsity": 0.5, "at": 1}))
    assert len(moved) > 32 and not any(moved)


@pytest.mark.slow
def test_it_trains_in_bfloat16(tmp_path):
    _, state = small.train(tmp_path, **settings_of(**{"training.epochs": 6, "training.mixed_precision": "bf16"}))
    records = records_of(tmp_path)
    assert records[-1]["loss"] < records[0]["loss"]
    weights = [value for name, value in state.items() if name.startswith("network.") and value.ndim > 1]
    assert all(value.dtype == torch.float32 for value in weights)


def test_phases_hold_beside_compression_aware_updates(tmp_path):
    phases = {"schedule": "alternating", "warmup": 1, "sparse": 1, "dense": 1, "last_dense": 1, "last_sparse": 1}
    _, state = small.train(tmp_path, **settings_of(sparse=phases))
    weights = [value for name, value in state.items() if name.startswith("network.") and value.ndim > 1]
    zeros, count = sum(int((value == 0).sum()) for value in weights), sum(value.numel() for value in weights)
    assert zeros == int(0.9 * count)


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """They draw the same levels, move up the same gradient, and leave away the same weights."""
    overrides = [
        "images.held_out=0",
        "model.norm=group",
        "training.epochs=2",
        "training.global_batch_size=256",
        "training.batch_size=64",
        "evaluation.every=0",
        "evaluation.at_end=false",
        "cram.update=cram",
        "cram.levels=[0.5, 0.9]",
    ]
    weights = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        launch(processes, "-m", "hylora.train", "recipes/vision/digits.yaml", *overrides, f"output.path={folder}")
        weights.append(read_weights(folder))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-2, atol=1e-3)


def test_one_shot_grids_are_measured_at_the_end(tmp_path):
    shot = {"levels": [0.5, "2:4", "4bit"], "passes": 2}
    settings = settings_of(one_shot=shot, **{"training.epochs": 1, "evaluation.at_end": True})
    small.train(tmp_path, **settings)
    found = json.loads((tmp_path / "results.json").read_text())["one_shot"]
    assert found.keys() == {"0.5", "2:4", "4bit"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sharpness.radius": 0.1}, "cram.update='cram' and sharpness.radius=0.1 cannot be had together"),
        ({"cram.keep": ["nowhere"]}, "cram.keep='nowhere' must name a module"),
        ({"cram.levels": ["5:7"]}, "cram.levels: .* divides the input channels of no weight"),
        ({"cram.levels": [1.5]}, "cram.levels: sparsity=1.5 must be"),
    ],
)
def test_what_cannot_work_is_refused_before_training(tmp_path, settings, message):
    with pytest.raises(RecipeError, match=message):
        small.train(tmp_path, **settings_of(**settings))


def test_sharded_weights_are_refused():
    accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP)
    with pytest.raises(RecipeError, match="cram.update='cram' cannot be had while parameters are sharded"):
        TASK.make(small.recipe(**settings_of()), accelerator)
