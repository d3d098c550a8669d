# SPDX-License-Identifier: Apache-2.0
"""Batch norms are replaced where they are, and nothing else is."""

import pytest
import torch
from torch import nn

from vision_extras.models import ModelRecipe, build_network
from vision_extras.subspaces import replace_batch_norms
from vision_extras.subspaces.norms import norm_parameters

_KINDS = [((5,), nn.BatchNorm1d), ((3, 5), nn.BatchNorm2d), ((2, 3, 5), nn.BatchNorm3d)]


@pytest.mark.parametrize("channels, groups", [(64, 32), (48, 24), (20, 20), (37, 1), (33, 11), (1, 1)])
def test_the_most_groups_that_divide_the_channels_are_taken(channels, groups):
    network = nn.Sequential(nn.BatchNorm2d(channels))

    replace_batch_norms(network, "group", 32)

    assert isinstance(network[0], nn.GroupNorm)
    assert (network[0].num_groups, network[0].num_channels) == (groups, channels)


@pytest.mark.parametrize("norm, size", [("group", 3), ("instance", 1)])
@pytest.mark.parametrize("spatial, kind", _KINDS)
def test_each_image_is_normalised_alone(norm, size, spatial, kind):
    network = nn.Sequential(kind(6, eps=0.1)).double()
    nn.init.normal_(network[0].weight)
    nn.init.normal_(network[0].bias)
    weight, bias = network[0].weight.detach().clone(), network[0].bias.detach().clone()
    images = torch.randn(4, 6, *spatial, dtype=torch.float64)

    replace_batch_norms(network, norm, 2)

    grouped = images.reshape(4, 6 // size, size, -1)
    mean = grouped.mean((-2, -1), keepdim=True)
    variance = grouped.var((-2, -1), correction=0, keepdim=True)
    expected = ((grouped - mean) / (variance + 0.1).sqrt()).reshape(images.shape)
    shape = (6, *(1 for _ in spatial))
    expected = expected * weight.reshape(shape) + bias.reshape(shape)
    for training in (True, False):
        torch.testing.assert_close(network.train(training)(images), expected)


def test_parameters_stay_the_same_under_their_names():
    network = build_network(ModelRecipe(), 1, 10, torch.Generator())
    before = dict(network.named_parameters())
    first = next(name for name in before if name.endswith("bias"))
    before[first].requires_grad_(False)
    network.eval()

    replace_batch_norms(network, "instance")

    after = dict(network.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    assert not list(network.buffers())
    assert not any(module.training for module in network.modules())
    assert first not in norm_parameters(network)
    assert len(norm_parameters(network)) == 2 * sum(isinstance(m, nn.GroupNorm) for m in network.modules()) - 1


def test_a_norm_without_scale_and_shift_gets_none():
    network = nn.Sequential(nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, affine=False))
    replace_batch_norms(network, "instance")
    assert not network.state_dict()
    network(torch.randn(2, 4, 3, 3))


def test_a_norm_that_is_in_two_places_stays_one():
    shared = nn.BatchNorm2d(4)
    network = nn.Sequential(shared, nn.Sequential(shared))
    replace_batch_norms(network, "group")
    assert isinstance(network[0], nn.GroupNorm)
    assert network[1][0] is network[0]


def test_a_network_of_layer_norms_stays_as_it_is():
    network = nn.Sequential(nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4))
    kinds = [type(module) for module in network]
    replace_batch_norms(network, "instance")
    assert [type(module) for module in network] == kinds


def test_networks_on_the_meta_device_stay_there():
    network = build_network(ModelRecipe(), 1, 10, None)
    replace_batch_norms(network, "group")
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    assert network(torch.empty(1, 1, 8, 8, device="meta")).shape == (1, 10)


def test_a_norm_that_does_more_is_refused_before_any_is_replaced():
    class Activated(nn.BatchNorm2d):
        def forward(self, images):
            return super().forward(images).relu()

    network = nn.Sequential(nn.BatchNorm2d(4), Activated(4))
    with pytest.raises(ValueError, match=r"1 is of the kind Activated, .* keep the network's norms"):
        replace_batch_norms(network, "group")
    assert isinstance(network[0], nn.BatchNorm2d)
