# SPDX-License-Identifier: Apache-2.0
"""Runs on images in phases: what they leave, what is refused, and that two processes make the same masks."""

from __future__ import annotations

import copy
import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from hylora.training.recipe import RecipeError
from tests.outcomes import assert_same, records_of
from tests.processes import launch
from tests.vision_extras import small
from vision_extras.models import load_network
from vision_extras.run import TASK

PHASES = {"schedule": "alternating", "warmup": 1, "sparse": 1, "dense": 1, "last_dense": 1, "last_sparse": 1}
# Epochs of two resolutions, the last two of the reference's alone; three updates to an epoch at that.
SETTINGS = {"growth": {}, "pruning": {}, "sparse": {**PHASES, "sparsity": 0.9}, "model": {"name": "resnet8"}}
MEASURED = {"evaluation.at_end": True, "evaluation.every": 1}


def settings_of(**more):
    """Of their own, as a run's settings are put into them."""
    return copy.deepcopy(SETTINGS) | more


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("acdc")
    _, state = small.train(folder, **settings_of(**MEASURED))
    return folder, state, json.loads((folder / "results.json").read_text())


def test_the_network_is_sparse_and_its_dense_one_beside_it(finished):
    folder, state, results = finished
    sparse, dense = load_network(folder), load_file(folder / "dense.safetensors")
    zeros = sum(int((p == 0).sum()) for p in sparse.parameters() if p.ndim > 1)
    count = sum(p.numel() for p in sparse.parameters() if p.ndim > 1)
    assert zeros == int(0.9 * count) and results["sparsity"] == pytest.approx(0.9, abs=1e-4)
    assert dense.keys() == sparse.state_dict().keys()
    for name, value in dense.items():
        key = f"dense.{name.replace('.', '/')}"
        assert torch.equal(value, state.get(key, state[f"network.{name}"]))
        assert value.ndim < 2 or (value == 0).float().mean() < 0.5
    # What was measured of it is what the evaluation at the end of its phase found.
    evaluated = {r["step"]: r for r in records_of(folder) if "eval_accuracy" in r}
    last = max(record["step"] for record in records_of(folder) if record.get("epoch") == 2)
    for name in ("accuracy", "loss"):
        assert results["dense"][name] == evaluated[last][f"eval_{name}"] != results["evaluation"][name]


def test_phases_and_operations_are_in_the_results(finished):
    _, _, results = finished
    phases, flops = results["sparse"]["phases"], results["sparse"]["flops"]
    assert [round(phase["sparsity"], 3) for phase in phases] == [0, 0.9, 0, 0.9]
    assert [phase["mask_change"] is None for phase in phases] == [True, True, True, False]
    assert flops["inference"] < 0.5 * flops["dense_inference"]
    # Two epochs of four are dense, and the small images of the first two count less.
    assert 0.5 < flops["training"] / flops["dense_training"] < 0.8
    assert flops["dense_training"] < 3 * flops["dense_inference"] * results["images_seen"]


# Eleven passes; with the eighth begins the last sparse phase.
@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=[] if number == 8 else pytest.mark.slow) for number in range(1, 12)]
)
def test_the_dense_outcome_survives_interruptions(finished, tmp_path, number):
    stop = small.before_pass(number, lambda: os.kill(os.getpid(), signal.SIGTERM))
    result, _ = small.train(tmp_path, stop, **settings_of(**MEASURED))
    assert result.stopped_by == "SIGTERM"
    _, resumed = small.train(tmp_path, **settings_of(**MEASURED), **{"training.resume": True})
    folder, state, results = finished
    assert_same(resumed, state)
    again = json.loads((tmp_path / "results.json").read_text())
    assert again["sparse"] == results["sparse"] and again["dense"] == results["dense"]
    assert_same(load_file(tmp_path / "dense.safetensors"), load_file(folder / "dense.safetensors"))


@pytest.mark.slow
def test_a_dense_finish_has_no_second_outcome(tmp_path):
    small.train(tmp_path, **settings_of(**{"sparse.finish": "dense"}))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["sparsity"] == 0 and not (tmp_path / "dense.safetensors").exists() and "dense" not in results


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"sparse.warmup": 3},
            "sparse.warmup=3, sparse=1, last_dense=1, last_sparse=1 come to 6 epochs, and training",
        ),
        ({"pruning.sparsity": 0.5}, "sparse.schedule='alternating' and pruning.sparsity=0.5 cannot be had together"),
        ({"growth.width": 0.5}, "sparse.schedule='alternating' and growth.width=0.5 cannot be had together"),
        ({"subspace.kind": "point"}, "sparse.schedule='alternating' and subspace.kind='point' cannot be had together"),
        ({"sparse.sparsity": 1.0}, "sparse.sparsity=1.0 must be at least 0 and below 1"),
        ({"sparse.sparsity": "4:2"}, "sparse.sparsity='4:2' must be a share below 1, or a pattern N:M"),
    ],
)
def test_bad_recipes_are_refused(settings, message):
    with pytest.raises(RecipeError) as caught:
        small.recipe(**settings_of(**settings))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparse.schedule": "fixed"}, "sparse.schedule='fixed' keeps to the zeros that the network begins with"),
        ({"sparse.sparsity": "3:7"}, "sparse.sparsity='3:7' divides the input channels of no weight"),
        ({"sparse.keep": ["nowhere"]}, "sparse.keep='nowhere' must name a module"),
    ],
)
def test_networks_that_cannot_are_refused_before_any_update(tmp_path, settings, message):
    with pytest.raises(RecipeError) as caught:
        small.train(tmp_path, **settings_of(**settings))
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_sharded_weights_are_refused_before_any_update(tmp_path):
    with pytest.raises(RecipeError, match="sparse.schedule='alternating' cannot be had while parameters are sharded"):
        TASK.make(small.recipe(tmp_path, **settings_of()), SimpleNamespace(distributed_type=DistributedType.FSDP))


# Processes


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", ["0.8", "2:4"])
def test_two_processes_are_one(tmp_path, sparsity):
    overrides = ["images.held_out=0", "model.norm=group", "training.epochs=4", "training.global_batch_size=512"]
    overrides += ["training.batch_size=128", "evaluation.every=0", "evaluation.at_end=false"]
    overrides += [f"sparse.{name}={value}" for name, value in {**PHASES, "sparsity": sparsity}.items()]

    def run(processes):
        folder = tmp_path / str(processes)
        launch(processes, "-m", "hylora.train", "recipes/vision/digits.yaml", *overrides, f"output.path={folder}")
        return records_of(folder), [load_network(folder).state_dict(), load_file(folder / "dense.safetensors")]

    (one, states), (two, others) = run(1), run(2)
    for record, other in zip(one, two, strict=True):
        assert other == pytest.approx(record, rel=1e-2, abs=1e-3)
    for state, other in zip(states, others, strict=True):
        for name, value in state.items():
            torch.testing.assert_close(other[name], value, rtol=1e-2, atol=1e-3)
    assert sum(int((value == 0).sum()) for value in states[0].values() if value.ndim > 1) > 1000
    for name, value in states[0].items():
        assert torch.equal(value == 0, others[0][name] == 0), name
