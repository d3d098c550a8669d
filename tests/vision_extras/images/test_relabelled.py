# SPDX-License-Identifier: Apache-2.0
"""Random labels: which images get them, in every process and after a resumption, and what is measured on them."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from hylora.training.recipe import RecipeError
from tests.outcomes import assert_same, records_of
from tests.processes import launch
from tests.vision_extras import small
from vision_extras.images import Images, ImagesRecipe, load_split
from vision_extras.images.relabelled import relabel
from vision_extras.models import load_network
from vision_extras.run import make_task

SETTINGS = {"images.random_labels": 40, "sampler": {"name": "ssc_fbs"}, "growth": {}, "pruning": {}}
SETTINGS |= {"model": {"name": "resnet8", "norm": "group"}, "evaluation.every": 1, "training.epochs": 2}


def rows(count=90, classes=3):
    pixels = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1)
    return Images(pixels, torch.arange(count) % classes)


def test_exactly_so_many_images_get_labels_drawn_alike():
    before = rows(3000)
    after, found = relabel(before, 3, 900, seed=5)
    assert len(found.rows) == 900 and found.rows.labels.tolist() == list(range(900))
    changed = (after.labels != before.labels).nonzero()[:, 0]
    assert len(changed) == int((found.drawn != found.true).sum())
    assert after.pixels.equal(before.pixels) and before.labels.equal(torch.arange(3000) % 3)
    # Independent draws hit each label, and the true one, in a third of all cases.
    assert found.drawn.bincount().tolist() == pytest.approx([300] * 3, abs=60)
    assert int((found.drawn == found.true).sum()) == pytest.approx(300, abs=60)


def test_each_image_has_the_label_that_is_drawn_for_it():
    before = rows()
    after, found = relabel(before, 3, 50, seed=5)
    numbers = [int(found.rows.pixels[n]) for n in range(50)]
    assert len(set(numbers)) == 50 and numbers != list(range(50))
    assert after.labels[numbers].equal(found.drawn) and before.labels[numbers].equal(found.true)
    others = [n for n in range(90) if n not in numbers]
    assert after.labels[others].equal(before.labels[others])


def test_the_seed_decides():
    (one, _), (same, _), (other, _) = (relabel(rows(), 3, 50, seed) for seed in (5, 5, 6))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert relabel(rows(), 3, 90, 5)[1].rows.pixels.equal(rows().pixels)
    with pytest.raises(ValueError, match="random_labels=91 must be at most the 90 images to learn from"):
        relabel(rows(), 3, 91, 5)


def test_images_that_are_decoded_when_asked_for(tmp_path):
    for name, value in (("a", 10), ("b", 200)):
        (tmp_path / name).mkdir()
        for number in range(6):
            Image.new("L", (4, 4), value + number).save(tmp_path / name / f"{number}.png")
    split = load_split(ImagesRecipe(name="folder", path=str(tmp_path), channels=1, held_out=0.0))
    after = split.with_random_labels(7, seed=0)
    assert after.relabelled.true.tolist() == [
        int(after.relabelled.rows[n][0].getpixel((0, 0)) >= 200) for n in range(7)
    ]
    assert after.train.fingerprint() != split.train.fingerprint() and len(after.train) == 12


def test_a_run_says_what_it_memorised(tmp_path):
    """As a loop over these images does, whatever augmentation says."""
    tasks = []
    result, _ = small.train(tmp_path, tasks.append, **SETTINGS)
    found, network = tasks[0]._split.relabelled, load_network(tmp_path).eval()
    batch = tasks[0]._split.plain([found.rows[n] for n in range(40)], [None] * 40, (8, 8))
    with torch.no_grad():
        told = network(batch["images"]).argmax(1)
    expected = {
        "random_label_accuracy": float((told == found.drawn).double().mean()),
        "true_label_accuracy": float((told == found.true).double().mean()),
    }
    assert {name: result.evaluation[name] for name in expected} == pytest.approx(expected)
    evaluated = [record for record in records_of(tmp_path) if "eval_loss" in record]
    assert len(evaluated) == 2 and all(f"eval_{name}" in record for name in expected for record in evaluated)


def test_runs_with_other_labels_are_other_runs():
    plain, drawn, other = (
        make_task(small.recipe(**settings), Accelerator()).identity()["images"]
        for settings in ({}, SETTINGS, {**SETTINGS, "training.seed": 1})
    )
    assert len({plain, drawn, other}) == 3


def test_more_than_there_are_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="images.random_labels=400 must be at most the 181 images to learn from"):
        small.train(tmp_path, **{**SETTINGS, "images.random_labels": 400})


@pytest.mark.slow
def test_two_processes_and_a_resumed_run_are_one(tmp_path):
    settings = {**SETTINGS, "output.checkpoint_every": 2}
    whole, state = small.train(tmp_path / "whole", **settings)
    small.recipe(tmp_path / "two", **settings).save(tmp_path / "recipe.yaml")
    launch(2, "-m", "hylora.train", tmp_path / "recipe.yaml", "training.batch_size=16")
    two = json.loads((tmp_path / "two" / "results.json").read_text())["evaluation"]
    for name in ("random_label_accuracy", "true_label_accuracy"):
        # One image may be told otherwise, as sums have another order.
        assert two[name] == pytest.approx(whole.evaluation[name], abs=0.026)

    stop = small.before_pass(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert small.train(tmp_path / "resumed", stop, **settings)[0].stopped_by is not None
    resumed, after = small.train(tmp_path / "resumed", **settings, **{"training.resume": True})
    assert resumed.evaluation == whole.evaluation
    assert_same(after, state)
