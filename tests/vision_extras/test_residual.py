# SPDX-License-Identifier: Apache-2.0
"""The network: it grows without changing, and comes back from disk."""

from __future__ import annotations

import pytest
import torch

from tests.outcomes import assert_same
from vision_extras.images import load_split
from vision_extras.models import NetworkConfig, ResidualNetwork


def network(**shape):
    made = ResidualNetwork(
        NetworkConfig(**{"channels": 1, "classes": 10, "width": 8, "blocks": 2, **shape}),
        torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        # As after some training: blocks that do something.
        for block in made.blocks:
            block.scale.fill_(0.5)
    return made


def digits(count=20):
    return load_split("digits", 0.0).train.pixels[:count] / 255.0


def test_growth_keeps_the_function_exactly_and_learns_from_there():
    grown, images = network(), digits()
    before, weights = grown(images), {name: value.clone() for name, value in grown.state_dict().items()}
    assert grown.grow(4, torch.Generator().manual_seed(1))
    assert grown.config.blocks == len(grown.blocks) == 4
    assert torch.equal(grown(images), before)
    assert_same({name: grown.state_dict()[name] for name in weights}, weights)
    grown(images).square().sum().backward()
    assert all(grown.blocks[index].scale.grad.abs().sum() > 0 for index in (2, 3))


def test_a_network_that_is_deep_enough_does_not_grow():
    made = network()
    before = made.state_dict().keys()
    assert not made.grow(2, torch.Generator()) and made.state_dict().keys() == before


def test_weights_are_the_generators():
    assert_same(network().state_dict(), network().state_dict())
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    network().grow(3, torch.Generator())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("side", [2, 3, 8, 28])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_any_number_of_channels(side, channels):
    assert network(channels=channels)(torch.rand(3, channels, side, side)).shape == (3, 10)


def test_an_image_does_not_depend_on_its_batch():
    made, images = network(), digits()
    alone = torch.cat([made(image[None]) for image in images])
    torch.testing.assert_close(made(images), alone)


def test_a_saved_network_comes_back(tmp_path):
    made = network(blocks=1)
    made.grow(3, torch.Generator().manual_seed(2))
    made.save(tmp_path)
    loaded = ResidualNetwork.load(tmp_path)
    assert loaded.config == made.config
    assert torch.equal(loaded(digits()), made(digits()))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"blocks": 0}, "blocks=0 must be at least 1"),
        ({"width": 0}, "width=0 must be a positive multiple of 8"),
        ({"width": 12}, "width=12 must be a positive multiple of 8"),
    ],
)
def test_a_shape_that_no_network_has_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        network(**shape)
