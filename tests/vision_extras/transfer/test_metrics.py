# SPDX-License-Identifier: Apache-2.0
"""The thesis's figures of transfer, from its own tables."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vision_extras.transfer.metrics import mean_increase, pruned_filters, relative_increase, task_difficulty

# Table 4.1 of the thesis, the best sparse networks at 80 %: linear dense, linear sparse, full dense.
AIRCRAFT, PETS, SUN = (0.492, 0.552, 0.836), (0.926, 0.925, 0.934), (0.601, 0.604, 0.648)


def test_increases_are_shares_of_the_dense_error():
    assert relative_increase(0.8, 0.9) == pytest.approx(1.0)
    assert relative_increase(0.95, 0.9) == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="dense=1 must be below 1"):
        relative_increase(0.9, 1)


def test_the_mean_over_tasks_has_its_standard_error():
    tasks = {"aircraft": AIRCRAFT, "pets": PETS, "sun": SUN}
    dense, sparse = ({name: row[column] for name, row in tasks.items()} for column in (0, 1))
    found = mean_increase(sparse, dense)
    shares = [-0.060 / 0.508, 0.001 / 0.074, -0.003 / 0.399]
    mean = sum(shares) / 3
    assert found.mean == pytest.approx(mean)
    assert found.error == pytest.approx((sum((share - mean) ** 2 for share in shares) / 2 / 3) ** 0.5)
    assert mean_increase({"one": 0.8}, {"one": 0.6}).error is None
    with pytest.raises(ValueError, match="must be of the same"):
        mean_increase(sparse, {"pets": 0.5})


def test_a_task_is_as_difficult_as_full_finetuning_gains():
    assert task_difficulty(AIRCRAFT[2], AIRCRAFT[0]) > task_difficulty(PETS[2], PETS[0]) > 0


def test_filters_are_pruned_where_no_weight_is_left():
    network = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Conv2d(5, 3, 1), nn.Linear(3, 4))
    assert pruned_filters(network) == 0
    with torch.no_grad():
        network[0].weight[[0, 3]] = 0
        network[1].weight[2, :4] = 0
        network[2].weight.zero_()
    assert pruned_filters(network) == 2 / 8
    with pytest.raises(ValueError, match="no convolution"):
        pruned_filters(nn.Linear(2, 2))
