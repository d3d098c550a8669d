# SPDX-License-Identifier: Apache-2.0
"""What levels take, against the thesis's tables and counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vision_extras.models import ModelRecipe, build_network
from vision_extras.subspaces import Bits, CompressibleSubspace, Sparsity, Width
from vision_extras.subspaces.costs import costs


def subspace_of(name, classes, compression, norm):
    network = build_network(ModelRecipe(name=name), 3, classes, torch.Generator())
    return CompressibleSubspace.point(network, compression, norm=norm)


def assert_as_told(found, columns):
    """Sparsities in per cent, millions of operations and megabytes, as the thesis rounds them."""
    for level, (sparsity, millions, megabytes) in columns.items():
        assert 100 * found[level]["sparsity"] == pytest.approx(sparsity, abs=6e-3)
        # It counts the means before the classifier too.
        assert found[level]["operations"] / 2e6 == pytest.approx(millions, abs=0.03)
        assert found[level]["bytes"] / 1e6 == pytest.approx(megabytes, abs=6e-3)


def test_sparse_networks_take_what_the_thesis_has():
    """Columns of tables 3.4 and 3.5."""
    columns = {
        "0": (0, 33.75, 0.87),
        "0.5": (49.31, 17.11, 0.44),
        "0.875": (86.29, 4.62, 0.12),
        "0.97": (95.66, 1.46, 0.04),
        "0.995": (98.12, 0.63, 0.02),
    }
    subspace = subspace_of("cpreresnet20", 10, Sparsity(0, 0.995), "group")
    assert_as_told(costs(subspace, tuple(map(float, columns)), (3, 32, 32)), columns)
    assert subspace.position.level == 0


def test_narrow_networks_take_what_the_thesis_has():
    """Columns of table 3.2."""
    columns = {"1": (0, 33.75, 0.87), "0.75": (43.491, 19.07, 0.49), "0.25": (93.491, 2.2, 0.06)}
    subspace = subspace_of("cpreresnet20", 10, Width(), "instance")
    assert_as_told(costs(subspace, tuple(map(float, columns)), (3, 32, 32)), columns)


@pytest.mark.slow
def test_narrower_networks_are_faster():
    subspace = subspace_of("resnet18", 1000, Width(), "instance")
    found = costs(subspace, (1.0, 0.75, 0.5, 0.25), (3, 224, 224))
    columns = {
        "1": (0, 1814.1, 46.72),
        "0.75": (42.91, 1042.66, 26.67),
        "0.5": (73.88, 483.16, 12.2),
        "0.25": (92.91, 135.61, 3.31),
    }
    assert_as_told(found, columns)
    relative = [point["relative_seconds"] for point in found.values()]
    assert relative[0] == 1 and sorted(relative, reverse=True) == relative and relative[-1] < 0.5


@pytest.mark.parametrize("make", [CompressibleSubspace.line, CompressibleSubspace.point])
def test_exact_zeros_of_layers_that_are_kept_count_as_gone(make):
    """Of 12 weights in the first layer 2, and of 24 in the second floor(0.3 * 24)."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 8), nn.Linear(8, 2))
    with torch.no_grad():
        network[1].weight[0, :2] = 0
    (found,) = costs(make(network, Sparsity()), (0.3,), (1, 2, 2)).values()
    assert found.pop("stored_bytes") <= 4 * (52 + 13)
    assert found == {"sparsity": 9 / 52, "parameters": 52 - 9 + 13, "bytes": 4 * 43, "operations": 2 * 43}


@pytest.mark.parametrize("make", [CompressibleSubspace.line, CompressibleSubspace.point])
def test_narrow_layers_counted_by_hand(make):
    """Of 4 and 8 channels 3 and 6 stay, and at a quarter 1 and 2."""
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 8, 1), nn.InstanceNorm2d(8, affine=True), Head())
    found = costs(make(network, Width()), (1.0, 0.75, 0.25), (2, 5, 5))
    assert found["1"]["relative_seconds"] == 1
    for level, (first, second) in {"1": (4, 8), "0.75": (3, 6), "0.25": (1, 2)}.items():
        weights = 18 * first + first * second + 3 * second
        assert found[level]["parameters"] == weights + first + second + 2 * second + 3
        assert found[level]["bytes"] == 4 * weights and found[level]["sparsity"] == (128 - weights) / 128
        assert found[level]["operations"] == 2 * (9 * (18 * first + first * second) + 3 * second)
        assert found[level]["stored_bytes"] > 4 * weights and found[level]["seconds"] > 0


class Head(nn.Module):
    """A classifier of 8 channels."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, features):
        return self.linear(features.mean((-2, -1)))


def test_few_bits_are_of_compressed_layers_alone():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 8), nn.Linear(8, 2))
    found = costs(CompressibleSubspace.point(network, Bits()), (8, 3), (1, 2, 2))
    assert [found[bits]["bytes"] for bits in ("8", "3")] == [4 * 28 + 24, 4 * 28 + 9]
    assert found["3"]["stored_bytes"] < found["8"]["stored_bytes"] < 4 * (52 + 13)
    for point in found.values():
        assert (point["sparsity"], point["parameters"], point["operations"]) == (0, 52 + 13, 2 * 52)


class Asks(nn.Sequential):
    """A network that looks at what it computed."""

    def forward(self, images):
        logits = super().forward(images)
        return logits if logits.mean().item() > 0 else -logits


def test_operations_that_cannot_be_counted_are_none():
    network = Asks(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 8), nn.Linear(8, 2))
    (found,) = costs(CompressibleSubspace.point(network, Sparsity()), (0.5,), (1, 2, 2)).values()
    assert found["operations"] is None and found["sparsity"] == 12 / 52


def test_narrow_networks_need_not_have_layers_between_the_outer_ones():
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    found = costs(CompressibleSubspace.point(network, Width()), (1.0, 0.5), (1, 7, 7))
    assert [found[level]["parameters"] for level in ("1", "0.5")] == [8 * 10 + 3 * 9, 4 * 10 + 3 * 5]


@pytest.mark.parametrize(("bits", "megabytes"), [(8, 11.69), (3, 4.38)])
def test_few_bits_take_what_the_thesis_has_but_for_the_outer_layers(bits, megabytes):
    """Table 3.6 has all parameters in so many bits, biases and norms too."""
    subspace = subspace_of("resnet18", 1000, Bits(), "group")
    outer = 4 * (3 * 64 * 49 + 512 * 1000)
    found = costs(subspace, (bits,), (3, 32, 32))[str(bits)]["bytes"]
    norms = (2 * 4800 + 1000) * bits / 8
    assert (found - outer * (1 - bits / 32) + norms) / 1e6 == pytest.approx(megabytes, abs=6e-3)
