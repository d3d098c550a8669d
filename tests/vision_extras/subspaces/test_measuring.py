# SPDX-License-Identifier: Apache-2.0
"""What runs say of subspaces, while they train and in the end."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from tests.processes import launch
from tests.vision_extras import small
from vision_extras.batch_norms import recalibrate
from vision_extras.run import make_task

SETTINGS = {
    "growth": {},
    "pruning": {},
    "model": {"name": "resnet8", "width": 0.5, "norm": "group"},
    "sampler": {"name": "ssc_fbs"},
    "training.epochs": 2,
    "subspace": {"kind": "line", "strongest": 0.9, "measured": (0.0, 0.5, 0.9)},
}


def accuracy(network, task):
    """Of the held-out images, in one pass."""
    rows = task._split.held_out
    batch = task._split.plain([rows[number] for number in range(len(rows))], [None] * len(rows), (8, 8))
    with torch.no_grad():
        logits = network.eval()(batch["images"])
    return (logits.argmax(-1) == batch["labels"]).double().mean().item(), F.cross_entropy(logits, batch["labels"])


def test_both_ends_are_told_in_training_and_the_curve_in_the_end(tmp_path):
    made, settings = [], {**SETTINGS, "evaluation.at_end": True, "evaluation.every": 1, "evaluation.sides": (8,)}
    small.train(tmp_path, made.append, **settings)
    results = json.loads((tmp_path / "results.json").read_text())
    evaluation, curve, costs = results["evaluation"], results["curve"], results["costs"]
    subspace = made[0].model.network
    assert [*curve] == [*costs] == ["0", "0.5", "0.9"]
    for level, point in curve.items():
        right, loss = accuracy(subspace.export(float(level)), made[0])
        assert (point["accuracy"], point["loss"]) == pytest.approx((right, float(loss)), rel=1e-5)
        subspace.move(0.1 + float(level), float(level))
        assert point["reversed_accuracy"] == pytest.approx(accuracy(subspace, made[0])[0])
    assert (evaluation["accuracy"], evaluation["loss"]) == (curve["0"]["accuracy"], curve["0"]["loss"])
    assert evaluation["strongest_accuracy"] == curve["0.9"]["accuracy"] != evaluation["accuracy"]
    assert results["accuracy_by_side"]["8"] == evaluation["accuracy"] and "embedding_variance" in results
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum("eval_strongest_accuracy" in record for record in records) == 2


def test_baselines_with_batch_norms_tell_their_drift_and_what_calibration_mends(tmp_path):
    made = []
    settings = {**SETTINGS, "model": {"name": "resnet8", "width": 0.5}, "evaluation.at_end": True}
    settings["subspace"] = {"kind": "point", "targets": (0.0,), "strongest": 0.9, "measured": (0.0, 0.9)}
    small.train(tmp_path, made.append, **settings)
    curve = json.loads((tmp_path / "results.json").read_text())["curve"]
    assert all(
        point.keys() == {"alpha", "loss", "accuracy", "drift", "recalibrated_accuracy"} for point in curve.values()
    )
    assert curve["0.9"]["drift"] > curve["0"]["drift"] > 0
    subspace, images = made[0].model.network, made[0]._probe(181)
    recalibrate(subspace.at_level(0.9), images.split(128))
    assert curve["0.9"]["recalibrated_accuracy"] == pytest.approx(accuracy(subspace, made[0])[0])


@pytest.mark.slow
def test_averaged_weights_are_those_at_the_weakest_level(tmp_path):
    """Weights that were computed before are not taken for theirs."""
    made = []
    settings = {**SETTINGS, "evaluation.at_end": True, "average.decay": 0.5}
    result, _ = small.train(tmp_path, made.append, **settings)
    task, found = made[0], result.evaluation
    with task._average.applied():
        expected, _ = accuracy(task.model.network.export(0.0), task)
    assert found["average_accuracy"] == pytest.approx(expected)
    assert found["average_loss"] != found["loss"]


def test_a_run_that_is_not_evaluated_ends_at_the_weakest_level_too(tmp_path):
    task = make_task(small.recipe(tmp_path, **SETTINGS), Accelerator(cpu=True))
    task.model.network.move(0.3, 0.7)
    assert task.measure(task.model, Accelerator(cpu=True), lambda: None) == {}
    assert (task.model.network.position.alpha, task.model.network.position.level) == (1, 0)


@pytest.mark.slow
def test_two_processes_measure_the_curve_of_one(tmp_path):
    """Images are dealt to them, and each goes to the same levels."""
    settings = {**SETTINGS, "images.held_out": 0.1, "evaluation.at_end": True, "training.batch_size": 16}
    recipe = small.recipe(tmp_path / "run", **settings)
    recipe.save(tmp_path / "recipe.yaml")

    def run(processes):
        folder = tmp_path / str(processes)
        launch(processes, "-m", "tests.vision_extras.command", tmp_path / "recipe.yaml", f"output.path={folder}")
        return json.loads((folder / "results.json").read_text())

    one, two = run(1), run(2)
    for level, point in one["curve"].items():
        assert two["curve"][level] == pytest.approx(point, rel=1e-2, abs=6e-3)
    assert two["costs"] == one["costs"]
    assert two["evaluation"] == pytest.approx(one["evaluation"], rel=1e-2, abs=6e-3)
