# SPDX-License-Identifier: Apache-2.0
"""Statistics of batch norms against means and variances taken by hand."""

import pytest
import torch
from torch import nn

from hylora.randomness import generator
from vision_extras.batch_norms import recalibrate
from vision_extras.models import ModelRecipe, build_network
from vision_extras.subspaces import CompressibleSubspace, Sparsity, Width
from vision_extras.subspaces.drift import batch_norm_drift, statistics_size

BATCHES = [torch.randn(size, 2, 5, 6, generator=torch.Generator().manual_seed(size)) for size in (3, 4, 2)]


class Two(nn.Module):
    """Two batch norms, of which what they are given is kept."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(2, 8, 3), nn.Conv2d(8, 6, 1)
        self.first, self.second = nn.BatchNorm2d(8), nn.BatchNorm2d(6, momentum=0.3)
        self.dropout, self.head = nn.Dropout(0.5), nn.Conv2d(6, 3, (3, 4))
        for norm in (self.first, self.second):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        self.given: list[tuple] = []

    def forward(self, images):
        first = self.one(images)
        second = self.two(self.dropout(self.first(first).relu()))
        self.given.append((first, second))
        return self.head(self.second(second)).flatten(1)


STORED = (Two().first.running_mean, Two().second.running_mean)


def at_half(network):
    return CompressibleSubspace.point(network, Width()).at_level(0.5)


@pytest.mark.parametrize("prepare", [lambda network: network, at_half], ids=["plain", "narrow"])
def test_the_drift_is_that_of_means_by_hand(prepare):
    network = Two().eval()
    model = prepare(network)
    with batch_norm_drift(model) as drift:
        for images in BATCHES:
            model(images)
        model.train()(BATCHES[0])
        model.eval()
    model(BATCHES[0])

    expected = []
    for layer, stored in enumerate(STORED):
        differences = []
        for given in network.given[: len(BATCHES)]:
            columns = given[layer].transpose(0, 1).flatten(1)
            means = torch.tensor([float(column.detach().mean()) for column in columns])
            differences.append(float((means - stored[: len(means)]).abs().mean()))
        expected.append(sum(differences) / len(differences))
    found = drift.by_layer()
    assert [name.rpartition(".")[2] for name in found] == ["first", "second"]
    assert list(found.values()) == pytest.approx(expected, rel=1e-5)


def test_nothing_is_seen_of_a_network_without_batch_norms():
    network = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.BatchNorm1d(2, track_running_stats=False)).eval()
    with batch_norm_drift(network) as drift:
        network(torch.randn(3, 2))
    assert drift.by_layer() == {}


def test_drift_grows_with_the_distance_from_the_level_that_was_calibrated():
    network = build_network(ModelRecipe(), 1, 10, generator("weights", 0))
    subspace, images = CompressibleSubspace.point(network, Sparsity()).eval(), torch.randn(16, 1, 8, 8)
    recalibrate(subspace.at_level(0.0), [images])
    means = []
    for level in (0.0, 0.5, 0.9):
        with batch_norm_drift(subspace.at_level(level)) as drift:
            subspace(images)
        means.append(sum(drift.by_layer().values()))
    assert 10 * means[0] < means[1] < means[2]


@pytest.mark.parametrize("prepare", [lambda network: network, at_half], ids=["plain", "narrow"])
def test_recalibrated_statistics_are_averages_of_batches(prepare):
    network = Two().train()
    model = prepare(network)
    network.second.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    recalibrate(model, iter(BATCHES))

    for layer, norm in enumerate((network.first, network.second)):
        columns = [given[layer].transpose(0, 1).flatten(1) for given in network.given]
        used = len(columns[0])
        means = sum(batch.mean(1) for batch in columns) / len(BATCHES)
        variances = sum(batch.var(1) for batch in columns) / len(BATCHES)
        torch.testing.assert_close(norm.running_mean[:used], means)
        torch.testing.assert_close(norm.running_var[:used], variances)
    assert [network.first.momentum, network.second.momentum] == [0.1, 0.3]
    assert network.training and network.dropout.training and network.first.training and not network.second.training
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name, _ in network.named_parameters())
    assert all(value.grad is None for value in network.parameters())


def test_dropout_plays_no_part_in_recalibration():
    one, two = Two(), Two()
    for network in (one, two):
        recalibrate(network, BATCHES)
    assert torch.equal(one.second.running_mean, two.second.running_mean)


def test_recalibration_needs_images():
    network = Two()
    with pytest.raises(ValueError, match="batches are empty"):
        recalibrate(network, [])
    assert torch.equal(network.first.running_mean, STORED[0])


def test_a_set_of_statistics_is_two_numbers_for_each_channel():
    assert statistics_size(Two(), 1) == 2 * 4 * (8 + 6)
    assert statistics_size(Two().half(), 7) == 7 * 2 * 2 * (8 + 6)
    assert statistics_size(build_network(ModelRecipe(norm="group"), 1, 10, None), 3) == 0
    for name, size in (("cpreresnet20", 10880), ("resnet18", 38400)):
        assert statistics_size(build_network(ModelRecipe(name=name), 3, 10, None), 1) == size
    resnet = build_network(ModelRecipe(name="resnet20"), 3, 10, None)
    # 7 norms of 16 channels, and 7 of 32 and of 64 with those of the shortcuts.
    assert statistics_size(resnet, 100) == 100 * 2 * 4 * (7 * 16 + 7 * 32 + 7 * 64)
