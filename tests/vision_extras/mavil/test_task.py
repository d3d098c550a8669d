# SPDX-License-Identifier: Apache-2.0
"""Learning from masked clips on the loop: schedules, evaluation, interruptions and processes."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from hylora.training.recipe import RecipeError
from tests.outcomes import assert_same, records_of
from tests.processes import launch
from tests.vision_extras import small
from tests.vision_extras.mavil.tiny import LEARNER
from vision_extras.mavil import MavilForPreTraining
from vision_extras.mavil.recipe import MavilRecipe
from vision_extras.mavil.run import make_task

TREE = {
    "task": "mavil",
    "clips": {
        "name": "spoken_digits",
        "count": 70,
        "held_out": 0.3,
        "seconds": 1.0,
        "bands": 64,
        "frames": 4,
        "video_seconds": 1.0,
        "side": 16,
    },
    "model": LEARNER,
    "mask": {"first": 0.9, "last": 0.6, "adaptive": True},
    "optimizer": {"lr": 1e-3},
    "training": {"epochs": 3, "global_batch_size": 8, "batch_size": 4, "mixed_precision": "float32"},
    "evaluation": {"at_end": True, "batch_size": 8},
    "tracking": {"progress": False},
}


def recipe(path="unused", **settings):
    return small.made(MavilRecipe, TREE, path, **settings)


def train(folder, prepare=lambda task: None, **settings):
    return small.trained(recipe(folder, **settings), make_task, prepare)


def test_updates_have_the_clips_and_masks_of_their_epoch(tmp_path):
    seen = []

    def look(task):
        def note(module, inputs, batch):
            if module.training:
                seen.append((len(batch["input_values"]), batch["audio_visible"].shape[2]))

        task.model.register_forward_pre_hook(note, with_kwargs=True)

    result, _ = train(tmp_path, look, **{"training.batch_size": 8})
    records = [record for record in records_of(tmp_path) if "mask_ratio" in record]
    shares = {record["epoch"]: record["mask_ratio"] for record in records}
    assert shares == {0: pytest.approx(0.9), 1: pytest.approx(0.75), 2: pytest.approx(0.6)}
    # 32 patches of sound, of which 10, 25 and 40 % are seen, in batches of 8 at the last.
    assert [visible for _, visible in (seen[0], seen[-1])] == [3, 13]
    assert seen[0][0] == 32 and {rows for rows, visible in seen if visible == 13} >= {8}
    results = json.loads((tmp_path / "results.json").read_text())
    clips = json.loads((tmp_path / "data.json").read_text())
    assert results["clips_seen"] == 3 * clips["train"] == sum(rows for rows, _ in seen)
    found = result.evaluation
    assert found.keys() >= {"loss", "audio_loss", "video_loss", "inter_loss", "intra_loss", "retrieval"}
    whole = found["audio_loss"] + found["video_loss"] + 0.1 * found["inter_loss"] + 0.01 * found["intra_loss"]
    assert found["loss"] == pytest.approx(whole, rel=1e-5)


def test_what_was_learned_is_read_back(tmp_path):
    _, state = train(tmp_path, **{"training.epochs": 1})
    again = MavilForPreTraining.from_pretrained(tmp_path).state_dict()
    assert_same(again, {name.removeprefix("network."): value for name, value in state.items()})


def test_masks_and_noise_do_not_depend_on_the_passes_of_evaluation(tmp_path):
    """Reconstruction of each clip is its own; what is compared among clips does depend on them."""
    found = [train(tmp_path / str(size), **{"evaluation.batch_size": size})[0].evaluation for size in (3, 8)]
    for name in ("audio_loss", "video_loss"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-4)


@pytest.mark.slow
def test_stopped_and_resumed_it_is_the_same_run(tmp_path):
    settings = {"evaluation.every": 1, "output.checkpoint_every": 2}
    _, whole = train(tmp_path / "whole", **settings)
    for number in (2, 7, 12):
        folder = tmp_path / str(number)
        stop = small.before_pass(number, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert train(folder, stop, **settings)[0].stopped_by == "SIGTERM"
        _, resumed = train(folder, **settings, **{"training.resume": True})
        assert_same(resumed, whole)
        assert records_of(folder) == records_of(tmp_path / "whole")


def test_sound_alone_is_an_audio_learner(tmp_path):
    result, state = train(tmp_path, **{"model.video": False, "clips.name": "speech"})
    assert not any("video" in name or "fusion" in name for name in state)
    assert result.evaluation["loss"] == result.evaluation["audio_loss"] and "retrieval" not in result.evaluation


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """Clips are told from those of both, so that the sum of losses is the same. Batches follow the masks."""
    path = tmp_path / "recipe.yaml"
    settings = {"optimizer.name": "sgd", "optimizer.lr": 0.03, "model.inter_weight": 1.0}
    recipe(tmp_path / "unused", **settings).save(path)
    runs = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        passes = f"training.batch_size={8 // processes}"
        launch(processes, "-m", "hylora.train", path, f"output.path={folder}", passes)
        runs[processes] = load_file(folder / "model.safetensors"), records_of(folder)
    (one, expected), (two, found) = runs[1], runs[2]
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-2, atol=1e-3)
    for record, reference in zip(found, expected, strict=True):
        assert record["step"] == reference["step"]
        if "mask_ratio" in record:
            assert record == pytest.approx(reference, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask": {"first": 1.0}}, "mask.first=1.0 must be above 0 and below 1"),
        ({"clips.side": 20}, "model: a video of 4 frames of 20x20 pixels must divide"),
        ({"clips.bands": 40}, "model: bands=40 must be a multiple of audio_patch=16"),
        ({"model.decoder_size": 18}, "model: decoder_size=18 must be a multiple of 4"),
        ({"clips.bands": 48}, "make 3 patches by 8 of model.audio_patch=16, which windows of 4 by 4 must divide"),
        ({"clips.frames": 2, "clips.side": 8}, "model: a single patch of video leaves nothing to mask"),
        ({"optimizer.schedule": {"warmup_epochs": 4}}, "warmup_epochs=4 must be at most training.epochs=3"),
        ({"clips.held_out": 0.0, "evaluation.every": 1}, "evaluation.every=1 has nothing to evaluate on"),
    ],
)
def test_what_a_recipe_refuses(settings, message):
    with pytest.raises(RecipeError, match=message):
        recipe(**settings)


def test_sound_without_frames_is_refused_for_video():
    with pytest.raises(RecipeError, match="clips.name='speech' has sound alone"):
        make_task(recipe(**{"clips.name": "speech"}), None)


def test_a_warm_up_in_updates_is_refused_in_words():
    """Choices that are numbers are named as well."""
    with pytest.raises(RecipeError, match="optimizer.schedule.warmup_steps=20 must be 0; the nearest is 0"):
        recipe(**{"optimizer.schedule": {"warmup_steps": 20}})
