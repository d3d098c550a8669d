# SPDX-License-Identifier: Apache-2.0
"""What levels take, against the thesis's tables and counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vision_extras.models import ModelRecipe, build_network
from vision_extras.subspaces import CompressibleSubspace, Sparsity
from vision_extras.subspaces.costs import costs


def test_sparse_resnet_18_takes_what_the_thesis_has():
    """Rows of tables 3.4 and 3.5; of parameters the thesis has none."""
    network = build_network(ModelRecipe(name="resnet18"), 3, 1000, torch.Generator())
    subspace = CompressibleSubspace.point(network, Sparsity())
    found = costs(subspace, (0.0, 0.875, 0.975), (3, 224, 224))
    rows = {"0": (0, 1814.1, 46.72), "0.875": (83.59, 330.49, 7.66), "0.975": (93.15, 160.94, 3.2)}
    for level, (sparsity, millions, megabytes) in rows.items():
        assert 100 * found[level]["sparsity"] == pytest.approx(sparsity, abs=5e-3)
        assert found[level]["operations"] / 2e6 == pytest.approx(millions, abs=0.05)
        assert found[level]["bytes"] / 1e6 == pytest.approx(megabytes, abs=0.01)
        # Norms have 9,600 and the classifier's bias 1,000.
        assert found[level]["parameters"] == found[level]["bytes"] / 4 + 9600 + 1000
    assert subspace.position.level == 0


@pytest.mark.parametrize("make", [CompressibleSubspace.line, CompressibleSubspace.point])
def test_exact_zeros_of_layers_that_are_kept_count_as_gone(make):
    """Of 12 weights in the first layer 2, and of 24 in the second floor(0.3 * 24)."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 8), nn.Linear(8, 2))
    with torch.no_grad():
        network[1].weight[0, :2] = 0
    (found,) = costs(make(network, Sparsity()), (0.3,), (1, 2, 2)).values()
    assert found == {"sparsity": 9 / 52, "parameters": 52 - 9 + 13, "bytes": 4 * 43, "operations": 2 * 43}


class Asks(nn.Sequential):
    """A network that looks at what it computed."""

    def forward(self, images):
        logits = super().forward(images)
        return logits if logits.mean().item() > 0 else -logits


def test_operations_that_cannot_be_counted_are_none():
    network = Asks(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 8), nn.Linear(8, 2))
    (found,) = costs(CompressibleSubspace.point(network, Sparsity()), (0.5,), (1, 2, 2)).values()
    assert found["operations"] is None and found["sparsity"] == 12 / 52
