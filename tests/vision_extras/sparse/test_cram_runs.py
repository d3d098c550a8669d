# SPDX-License-Identifier: Apache-2.0
"""Compression-aware updates in the loop: interrupted, accumulated or spread over processes, a run is the same run."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from hylora.training.recipe import RecipeError
from tests.outcomes import assert_same, records_of
from tests.processes import launch
from tests.vision_extras import small
from vision_extras.masks import prunable
from vision_extras.sparse.compression import compress

# Seven updates or so of a small network; statistics of each image, which no batch size changes.
PLAIN = {
    "model": {"name": "resnet8", "norm": "group", "width": 0.25},
    "sampler": {"name": "ssc_fbs", "side": 8},
    "growth": {"width": 1, "depth": 1},
    "pruning": {"sparsity": 0},
    "training.epochs": 2,
}
CRAM = {"update": "cram", "levels": [0.5, 0.8], "radius": 0.2}
KEPT = {**CRAM, "mask_every": 2, "plain": 0.3}


def stop_at(number):
    return small.before_pass(number, lambda: os.kill(os.getpid(), signal.SIGTERM))


@pytest.mark.parametrize(
    "cram, passes",
    [
        (KEPT, (2, 5, 8, 11)),
        ({**CRAM, "update": "topk", "plus": False, "levels": ["0.3-0.9"]}, (2, 6)),
        ({**CRAM, "update": "csam", "plus": False}, (3, 9)),
    ],
    ids=["masks kept", "topk", "csam"],
)
def test_every_interruption_gives_the_same_run(tmp_path, cram, passes):
    """Also in a first pass that is at compressed weights, and with batch statistics."""
    settings = {**PLAIN, "model": {**PLAIN["model"], "norm": "batch"}, "cram": cram}
    _, whole = small.train(tmp_path / "whole", **settings)
    for number in passes:
        folder = tmp_path / str(number)
        result, _ = small.train(folder, stop_at(number), **settings)
        assert result.stopped_by == "SIGTERM", number
        _, resumed = small.train(folder, **settings, **{"training.resume": True})
        assert_same(resumed, whole)
        assert records_of(folder) == records_of(tmp_path / "whole")


@pytest.mark.parametrize("update, plus", [("cram", True), ("topk", False), ("csam", False)])
def test_accumulation_changes_nothing(tmp_path, update, plus):
    """All passes go through the whole window, and masks are made once for it."""
    settings = {**PLAIN, "augment": {"shift": 0}, "cram": {**CRAM, "update": update, "plus": plus}}
    _, whole = small.train(tmp_path / "whole", **settings, **{"training.batch_size": 64})
    _, parts = small.train(tmp_path / "parts", **settings, **{"training.batch_size": 16})
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("level, compressed", [("2:4", "groups"), ("4bit", "steps")])
def test_second_passes_see_patterns_and_bits(tmp_path, level, compressed):
    """The first pass of an update at whole weights, the second at compressed ones."""
    seen = []

    def watch(task):
        def look(module, inputs):
            if module.training:
                seen.append({name: weight.detach().clone() for name, weight in prunable(module.network).items()})

        task.model.register_forward_pre_hook(look)

    small.train(tmp_path, watch, **{**PLAIN, "cram": {**CRAM, "levels": [level]}, "training.batch_size": 64})
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

    small.train(tmp_path, watch, **{**PLAIN, "pruning": {"sparsity": 0.5, "at": 1}, "cram": CRAM})
    assert len(moved) > 32 and not any(moved)


@pytest.mark.slow
def test_it_trains_in_bfloat16(tmp_path):
    _, state = small.train(
        tmp_path, **{**PLAIN, "training.epochs": 6, "cram": CRAM, "training.mixed_precision": "bf16"}
    )
    records = records_of(tmp_path)
    assert records[-1]["loss"] < records[0]["loss"]
    assert all(value.dtype == torch.float32 for name, value in state.items() if name.endswith("weight"))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"sharpness.radius": 0.1}, "sharpness.radius=0.1 cannot be had together"),
        ({"cram": {**CRAM, "levels": ["2:7"]}}, "'2:7'"),
        ({"cram": {**CRAM, "keep": ["nowhere"]}}, "keep='nowhere'"),
    ],
)
def test_what_cannot_work_is_refused_before_training(tmp_path, settings, message):
    with pytest.raises(RecipeError, match=message):
        small.train(tmp_path, **{**PLAIN, "cram": CRAM, **settings})
    assert not list(tmp_path.glob("**/metrics*"))


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """Levels and masks are the same everywhere, as otherwise weights would drift apart."""
    weights = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        launch(
            processes,
            *("-m", "hylora.train", "recipes/vision/digits.yaml", "images.held_out=0", "model.norm=group"),
            *("model.width=0.5", "training.epochs=2", "training.global_batch_size=256", "training.batch_size=128"),
            *("evaluation.every=0", "evaluation.at_end=false", "cram.update=cram", "cram.levels=[0.5,0.9,'2:4']"),
            *("cram.radius=0.1", f"output.path={folder}"),
        )
        weights[processes] = load_file(folder / "model.safetensors")
    for name, value in weights[1].items():
        torch.testing.assert_close(weights[2][name], value, rtol=1e-2, atol=1e-3, msg=name)
