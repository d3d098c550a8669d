# SPDX-License-Identifier: Apache-2.0
"""The moving average of weights: its formula, growth, pruning, interruptions, and what is evaluated and saved."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hylora.training.checkpoint import checkpoint_steps, load_checkpoint
from hylora.training.moment import Moment
from hylora.training.whole_run import run
from tests.outcomes import assert_same, records_of
from vision_extras.averaging import AverageRecipe, WeightAverage
from vision_extras.copies import WeightCopies
from vision_extras.images import load_split
from vision_extras.models import load_network
from vision_extras.recipe import ImageRecipe
from vision_extras.run import make_task
from vision_extras.subspaces import Bits, CompressibleSubspace

DECAY = 0.75


def train(folder, prepare=lambda task: None, epochs=2, resume=False, **sections):
    tree = {
        "task": "images",
        "images": {"name": "digits", "held_out": 0.9},
        "average": {"decay": DECAY},
        "training": {
            "epochs": epochs,
            "global_batch_size": 64,
            "batch_size": 64,
            "mixed_precision": "float32",
            "resume": resume,
        },
        "evaluation": {"at_end": False},
        "tracking": {"progress": False},
        "output": {"path": str(folder), "checkpoint_every": 1, "keep_checkpoints": 99},
        **sections,
    }

    def make(recipe, accelerator):
        task = make_task(recipe, accelerator)
        prepare(task)
        return task

    return run(ImageRecipe.from_tree(tree), make)


def weights(folder):
    """Weights and averages after each update, by name."""
    for step in checkpoint_steps(folder / "checkpoints"):
        state = load_checkpoint(folder / "checkpoints" / f"step-{step:06d}").tensors["weights"]
        network = {name[8:]: value for name, value in state.items() if name.startswith("network.")}
        averages = {name[9:].replace("/", "."): value for name, value in state.items() if name.startswith("averages.")}
        yield network, averages


def test_each_update_moves_the_average_by_the_rest_of_the_decay(tmp_path):
    """Of weights and of batch statistics, from the weights at first."""
    first = []
    train(tmp_path, lambda task: first.append({k: v.clone() for k, v in task.model.network.state_dict().items()}))
    expected, updates = first[0], 0
    for network, averages in weights(tmp_path):
        floating = {name for name, value in network.items() if value.is_floating_point()}
        assert averages.keys() == floating and any("running_var" in name for name in floating)
        expected = {name: DECAY * expected[name] + (1 - DECAY) * network[name] for name in floating}
        for name in floating:
            torch.testing.assert_close(averages[name], expected[name], rtol=1e-5, atol=1e-7)
        updates += 1
    assert updates == 6
    assert any((averages[name] - network[name]).abs().max() > 1e-3 for name in floating)


@pytest.mark.slow
def test_what_is_saved_is_the_network_and_its_average_beside_it(tmp_path):
    result = train(tmp_path, evaluation={})
    network, averages = list(weights(tmp_path))[-1]
    saved, averaged = load_network(result.folder), load_file(result.folder / "average.safetensors")
    assert_same({name: saved.state_dict()[name] for name in network}, network)
    assert averaged.keys() == saved.state_dict().keys()
    assert_same({name: averaged[name] for name in averages}, averages)

    split = load_split(ImageRecipe.load(tmp_path / "recipe.yaml").images)
    rows = [split.held_out[index] for index in range(len(split.held_out))]
    batch = split.plain(rows, [None] * len(rows), (8, 8))
    found = {}
    for prefix, state in (("", saved.state_dict()), ("average_", averaged)):
        saved.load_state_dict(state)
        with torch.no_grad():
            right = saved.eval()(batch["images"]).argmax(1) == batch["labels"]
        found[f"{prefix}accuracy"] = float(right.float().mean())
    assert found["accuracy"] != found["average_accuracy"]
    assert {name: result.evaluation[name] for name in found} == pytest.approx(found, abs=0.002)
    assert result.evaluation["average_loss"] != result.evaluation["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "growth",
    [pytest.param({}, id="plain"), pytest.param({"width": 0.5, "until": 1.0}, id="growth")],
)
def test_an_interrupted_run_is_the_same_run(tmp_path, growth):
    """Stopped in the first pass of the second epoch, in which the network may have grown, and resumed."""
    sections = {"growth": growth}

    def stop(task):
        passes = []

        def count(module, inputs):
            passes.append(module.training)
            if sum(passes) == 4 and module.training:
                os.kill(os.getpid(), signal.SIGTERM)

        task.model.register_forward_pre_hook(count)

    train(tmp_path / "whole", **sections)
    assert train(tmp_path / "parts", stop, **sections).stopped_by == "SIGTERM"
    train(tmp_path / "parts", resume=True, **sections)
    found, expected = (list(weights(tmp_path / name)) for name in ("parts", "whole"))
    for one, other in zip(found, expected, strict=True):
        assert_same(one[0], other[0])
        assert_same(one[1], other[1])
    assert records_of(tmp_path / "parts") == records_of(tmp_path / "whole")
    sizes = [sum(average.numel() for average in averages.values()) for _, averages in expected]
    assert len(set(sizes)) == (2 if growth else 1)


def test_the_average_of_a_weight_that_grew_keeps_its_corner():
    averages = WeightCopies()
    averages.follow({"a.weight": torch.zeros(2, 3), "b": torch.full((2,), 5.0)})
    averages.follow({"a.weight": torch.ones(4, 5), "c": torch.full((1,), 7.0)})
    expected = torch.ones(4, 5)
    expected[:2, :3] = 0
    assert torch.equal(averages["a.weight"], expected) and torch.equal(averages["c"], torch.tensor([7.0]))
    assert averages.state_dict().keys() == {"a/weight", "c"}
    averages["a.weight"].fill_(3)
    averages.follow({"a.weight": torch.zeros(4, 5), "c": torch.zeros(1)})
    assert (averages["a.weight"] == 3).all()


def test_what_is_pruned_is_gone_from_the_average():
    network, averages = nn.Linear(4, 3), WeightCopies()
    average = WeightAverage(network, averages, 0.9)
    average.begin(Moment(0, 2, 0))
    with torch.no_grad():
        network.weight[1] = 0
    average.end(Moment(0, 2, 0))
    assert (averages["weight"][1] == 0).all() and (averages["weight"][[0, 2]] != 0).all()


def test_averages_are_put_in_and_taken_out_again():
    network, averages = nn.BatchNorm1d(3), WeightCopies()
    average = WeightAverage(network, averages, 0.5)
    average.begin(Moment(0, 2, 0))
    network(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), average.applied():
        assert (network.running_mean == 0).all() and int(network.num_batches_tracked) == 1
        raise RuntimeError("stop")
    assert_same(network.state_dict(), before)
    assert (network.running_mean != 0).all()


def test_without_a_decay_nothing_is_averaged(tmp_path):
    result = train(tmp_path, average={}, epochs=1, evaluation={})
    assert "average_accuracy" not in result.evaluation and not (result.folder / "average.safetensors").exists()


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_bad_decays_are_refused(decay):
    with pytest.raises(ValueError, match=f"decay={decay} must be at least 0 and below 1"):
        AverageRecipe(decay=decay)


def test_ranges_of_quantisers_are_those_of_the_weights_network():
    """They begin at nothing, which a decay of their own would hold on to."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2))
    subspace, averages, inputs = CompressibleSubspace.point(layers, Bits()), WeightCopies(), torch.randn(6, 3)
    method = WeightAverage(subspace, averages, 0.99)
    for step in range(3):
        method.begin(Moment(step, 3, 0))
        subspace(inputs)
        method.end(Moment(step, 3, 0))
    subspace.position.activations = True
    subspace.eval()
    expected = subspace(inputs)
    with method.applied():
        torch.testing.assert_close(subspace(inputs), expected)
