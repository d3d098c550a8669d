# SPDX-License-Identifier: Apache-2.0
"""The curve of a subspace against networks that are compressed by hand."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.outcomes import assert_same
from vision_extras.subspaces import Bits, CompressibleSubspace, Sparsity, Width
from vision_extras.subspaces.curve import curve, measured_levels, standing
from vision_extras.subspaces.sparsity import TopK

INPUTS = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 3


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))


@torch.no_grad()
def measure(module):
    logits = module(INPUTS)
    return {
        "loss": float(F.cross_entropy(logits, LABELS)),
        "accuracy": float((logits.argmax(-1) == LABELS).float().mean()),
        "ece": 0.5,
    }


def by_hand(alpha, level):
    """Weights between two ends, of which as many go as the level says."""
    made, (first, second) = network(0), (network(seed).state_dict() for seed in (0, 1))
    state = {name: alpha * first[name] + (1 - alpha) * second[name] for name in first}
    weight = state["2.weight"].flatten()
    weight[weight.abs().argsort()[: int(level * weight.numel() + 1e-9)]] = 0
    made.load_state_dict(state)
    return made


def test_each_level_is_measured_and_the_line_reversed():
    """Reversed, a level has the weights of the level that mirrors it: of 0.1 to 0.9 those of 0.7 at 0.3."""
    subspace = CompressibleSubspace.line(network(0), Sparsity(0.1, 0.9), other=network(1))
    found = curve(subspace, (0.1, 0.3, 0.9), lambda: measure(subspace))
    assert list(found) == ["0.1", "0.3", "0.9"]
    for level, point in found.items():
        expected, backwards = measure(by_hand(1 - float(level), float(level))), by_hand(float(level), float(level))
        assert point == pytest.approx(
            {
                "alpha": 1 - float(level),
                "loss": expected["loss"],
                "accuracy": expected["accuracy"],
                "reversed_accuracy": measure(backwards)["accuracy"],
            }
        )
    assert len({point["reversed_accuracy"] - point["accuracy"] for point in found.values()}) > 1
    assert (subspace.position.alpha, subspace.position.level) == (0.9, 0.1)


def test_the_accurate_end_comes_last_and_points_have_no_reverse():
    subspace, seen = CompressibleSubspace.point(network(0), Sparsity()), []

    def look():
        seen.append(subspace.position.level)
        return measure(subspace)

    found = curve(subspace, measured_levels(subspace.compression, (0.9, 0.5)), look)
    assert seen == [0.9, 0.5] and [*found["0.5"]] == ["alpha", "loss", "accuracy"]
    assert subspace.position.level == 0


def test_calibration_is_for_one_level_and_is_undone():
    """Batch norms are at 0 and 1, and calibrated as they would be in training mode on the same inputs."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)).eval()
    subspace = CompressibleSubspace.point(copy.deepcopy(plain), Sparsity())
    before, levels = copy.deepcopy(subspace.state_dict()), (0.0, 0.9)
    found = curve(subspace, levels, lambda: measure(subspace) | {"drift": 0.25}, [INPUTS])
    assert_same(subspace.state_dict(), before)
    for level in levels:
        point, network = found[f"{level:g}"], subspace.export(level).eval()
        assert (point["accuracy"], point["drift"]) == (measure(network)["accuracy"], 0.25)
        network[2].train()
        network[2].momentum = 0.0
        assert point["recalibrated_accuracy"] == measure(network)["accuracy"] != point["accuracy"]
    assert "recalibrated_accuracy" not in curve(subspace, levels, lambda: measure(subspace), [INPUTS])["0"]


def test_weights_are_computed_once_for_a_level(monkeypatch):
    subspace, calls = CompressibleSubspace.point(network(0), Sparsity()), []
    forward = TopK.forward
    monkeypatch.setattr(TopK, "forward", lambda self, weight: calls.append(1) or forward(self, weight))
    with standing(subspace, 0.5):
        first, again = subspace(INPUTS), subspace(INPUTS)
    assert len(calls) == 1 and torch.equal(first, again)
    assert torch.equal(subspace(INPUTS), first) and len(calls) == 2


@pytest.mark.parametrize(
    ("compression", "chosen", "expected"),
    [
        (Sparsity(), (), (0, 0.5, 0.875, 0.925, 0.95, 0.97, 0.975)),
        (Sparsity(0.95, 0.995), (), (0.95, 0.97, 0.975, 0.98, 0.985, 0.99, 0.995)),
        (Sparsity(), (0.9, 0.2, 0.2), (0.2, 0.9)),
        (Sparsity(0.3, 0.3), (), (0.3,)),
        (Width(), (), (1, 0.75, 0.625, 0.5, 0.375, 0.25)),
        (Width(1, 0.55), (), (1, 0.75, 0.625, 0.55)),
        (Width(), (0.25, 1), (1, 0.25)),
        (Bits(), (), (8, 7, 6, 5, 4, 3)),
        (Bits(6, 4), (), (6, 5, 4)),
    ],
)
def test_levels_are_the_ends_and_those_of_the_tables(compression, chosen, expected):
    assert measured_levels(compression, chosen) == expected
