# SPDX-License-Identifier: Apache-2.0
"""Operations of training: against counts by hand, and the closed form of ResNets against torch's counter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.outcomes import assert_same
from tests.vision_extras.models.architectures import TINY
from vision_extras.metrics.flops import inference_flops, on_meta, training_flops
from vision_extras.models import ModelRecipe, build_network
from vision_extras.models.build import resnet_config


def test_convolutions_and_a_classifier_counted_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    first = 2 * 3 * 8 * 9 * (6 * 10)
    second = 2 * (8 // 2) * 16 * 9 * (3 * 5)
    classifier = 2 * 16 * 10
    # The images need no gradient.
    assert training_flops(on_meta(network), (3, 6, 10)) == 2 * first + 3 * second + 3 * classifier
    network[0].requires_grad_(False)
    assert training_flops(on_meta(network), (3, 6, 10)) == first + 3 * second + 3 * classifier
    network = on_meta(network.eval())
    assert inference_flops(network, (3, 6, 10)) == first + second + classifier
    shares = {"0": 0.25, "3": 0.5}
    assert inference_flops(network, (3, 6, 10), shares) == first // 4 + second // 2 + classifier


def test_a_copy_without_values_is_counted_like_the_network_and_leaves_it_alone():
    network = build_network(ModelRecipe(name="resnet8"), 1, 10, torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    copied = on_meta(network)
    assert {value.device.type for value in copied.state_dict().values()} == {"meta"}
    expected = training_flops(build_network(ModelRecipe(name="resnet8"), 1, 10, None), (1, 8, 8))
    assert training_flops(copied, (1, 8, 8)) == training_flops(copied.eval(), (1, 8, 8)) == expected
    assert_same(network.state_dict(), before)
    assert network.training and all(parameter.grad is None for parameter in network.parameters())


def test_tied_weights_stay_tied_without_values():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    assert (copied := on_meta(network))[1].weight is copied[0].weight


class Asks(nn.Module):
    """A network that looks at what it computed."""

    def forward(self, images):
        return images if images.mean().item() > 0 else -images


class Insists(nn.Identity):
    def forward(self, images):
        assert images.device.type == "cpu"


@pytest.mark.parametrize("network", [Asks(), Insists()], ids=["values", "a device"])
def test_a_network_that_needs_values_is_refused(network):
    with pytest.raises(ValueError, match=r"operations for an image of shape \(1, 8, 8\) cannot be counted: "):
        training_flops(network, (1, 8, 8))
    with pytest.raises(ValueError, match=r"operations for an image of shape \(1, 8, 8\) cannot be counted: "):
        inference_flops(network, (1, 8, 8))


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "resnet18", "resnet50"])
@pytest.mark.parametrize(("factor", "side"), [(1.0, (64, 64)), (0.4, (33, 50))])
def test_the_closed_form_is_what_torch_counts(name, factor, side):
    recipe = ModelRecipe(name=name, width=factor, depth=factor)
    expected = training_flops(build_network(recipe, 3, 7, None), (3, *side))
    assert resnet_config(recipe, 3, 7).training_flops(*side) == expected


def test_resnet_18_takes_what_is_known():
    """1.814 billion multiplications and additions forward."""
    forward = 2 * 1.814e9
    stem = 2 * 3 * 64 * 49 * 112**2
    found = resnet_config(ModelRecipe(name="resnet18"), 3, 1000).training_flops(224, 224)
    assert found == pytest.approx(3 * forward - stem, rel=1e-3)


@pytest.mark.parametrize("name", ["vit", "swin", "mobilenet_v2", "regnet", "own"])
def test_other_networks_take_three_times_what_they_take_forward(name):
    """But for the gradient of the images; of convolutions in groups, too."""
    recipe, *_ = TINY[name]
    network, seen = on_meta(build_network(recipe, 3, 10, torch.Generator().manual_seed(0))), []
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    handle = first.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs))
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        network(torch.empty(2, 3, 64, 64, device="meta"))
    handle.remove()
    with torch.no_grad(), FlopCounterMode(display=False) as stem:
        first(*seen)
    expected = (3 * forward.get_total_flops() - stem.get_total_flops()) / 2
    assert training_flops(network, (3, 64, 64)) == expected
