# SPDX-License-Identifier: Apache-2.0
"""Operations of training in phases: the thesis's figures for ResNet-50, and a small network by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hylora.training.moment import Moment
from vision_extras.sparse import SparseRecipe
from vision_extras.sparse.operations import Operations, present, share_of_dense
from vision_extras.sparse.phases import plan_phases

DEFAULT = plan_phases(SparseRecipe(schedule="alternating"), 100)


@pytest.mark.parametrize(
    ("inference", "last_dense", "training"),
    [(0.29, 0.98, 0.65), (0.18, 0.93, 0.58), (0.11, 0.85, 0.53)],
    ids=["80 %", "90 %", "95 %"],
)
def test_training_takes_what_the_thesis_says(inference, last_dense, training):
    """Tables 3.1 and A.1. Dense phases have from all operations, in the first, to those of the last one."""
    least, most = share_of_dense(DEFAULT, inference, last_dense), share_of_dense(DEFAULT, inference)
    assert least < most and least - 0.01 < training < most + 0.01


def test_short_dense_phases_take_less():
    """Table 3.6: 0.40 with a uniform sparsity of 90 %, whose inference takes 0.13."""
    phases = plan_phases(SparseRecipe(schedule="alternating", dense=2, last_dense=2), 100)
    assert share_of_dense(phases, 0.13) == pytest.approx(0.40, abs=0.01)


def test_without_sparse_phases_it_is_all():
    assert share_of_dense(plan_phases(SparseRecipe(), 30), 0.1) == 1


class Pairs:
    """Two updates make an epoch."""

    def epoch(self, step):
        return step // 2

    def first_step(self, epoch):
        return 2 * epoch


class Turns:
    """Epochs are dense and sparse in turn."""

    masking = False


def test_each_epoch_is_counted_by_the_weights_that_are_left_when_it_ends():
    """Three dense operations of a layer with 12 weights and one with 4, for ten samples and for twenty."""
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    phased, samples = Turns(), [10, 20, 10]

    def forward(epoch, shares):
        count = 1 if epoch is None else samples[epoch]
        return count * round(24 * shares.get("0", 1) + 8 * shares.get("2", 1))

    def after(counted, start, stop):
        for step in range(start, stop):
            counted.end(Moment(step, 6, 0))

    counted = Operations(network, phased, Pairs(), forward)
    after(counted, 0, 2)
    with torch.no_grad():
        network[0].weight[:3] = 0
    assert present(network) == {"0": 0.25, "2": 1.0}
    phased.masking = True
    after(counted, 2, 4)
    resumed = Operations(network, phased, Pairs(), forward)
    resumed.restore(counted.state())
    phased.masking = False
    after(resumed, 4, 6)
    assert resumed.results() == {
        "training": 10 * 3 * 32 + 20 * 3 * 14 + 10 * (2 * 14 + 32),
        "dense_training": 40 * 3 * 32,
        "inference": 14,
        "dense_inference": 32,
    }
