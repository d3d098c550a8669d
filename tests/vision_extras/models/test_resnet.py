# SPDX-License-Identifier: Apache-2.0
"""Residual networks: those of the literature, their growth, and their way to disk and back."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.outcomes import assert_same
from vision_extras.models import ModelRecipe, build_network, load_network, save_network
from vision_extras.models.resnet import ResNet
from vision_extras.models.resnet_config import RESNETS, ResNetConfig, scaled_depth, scaled_width

FACTORS = (0.25, 0.5, 0.75, 1.0)


def build(name="resnet20", classes=10, channels=1, draw=0, **settings):
    generator = None if draw is None else torch.Generator().manual_seed(draw)
    return build_network(ModelRecipe(name=name, **settings), channels, classes, generator)


def trained(**settings):
    """A network with weights and statistics that no fresh one has, in float64."""
    network, draw = build(**settings).double(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                noise = torch.rand(value.shape, generator=draw, dtype=value.dtype)
                value.copy_(0.5 + noise if "running_var" in name else value + 0.2 * noise)
            else:
                value.fill_(7)
    return network


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "millions"),
    [
        ("resnet20", 10, 0.27),
        ("resnet32", 10, 0.46),
        ("resnet44", 10, 0.66),
        ("resnet56", 10, 0.85),
        ("resnet110", 10, 1.7),
        ("cpreresnet20", 10, 0.217),
        ("resnet18_cifar", 10, 11.2),
        ("resnet50", 1000, 25.56),
    ],
)
def test_sizes_of_the_literature(name, classes, millions):
    """He et al. (2016), table 6, whose shortcuts have no weights: ours have less than 1 % more."""
    assert parameters(build(name, classes, channels=3, draw=None)) / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_the_imagenet_networks_have_the_weights_of_transformers(name):
    from transformers import ResNetConfig as TheirConfig
    from transformers import ResNetForImageClassification

    shape = RESNETS[name]
    expansion = 4 if shape["block"] == "bottleneck" else 1
    config = TheirConfig(
        embedding_size=64,
        hidden_sizes=[expansion * width for width in shape["widths"]],
        depths=list(shape["layers"]),
        layer_type=shape["block"],
        num_labels=1000,
    )
    with torch.device("meta"):
        theirs = ResNetForImageClassification(config)

    def shapes(network):
        return sorted(tuple(parameter.shape) for parameter in network.parameters())

    assert shapes(build(name, 1000, channels=3, draw=None)) == shapes(theirs)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_pre_activation_is_that_of_its_paper(norm):
    """He et al. (2016b): x + W3 f(n3(W2 f(n2(W1 f(n1(x)))))), with W0 x in place of x where channels change."""
    network, images = trained(name="cpreresnet20", norm=norm, channels=3).eval(), torch.rand(2, 3, 9, 8).double()
    state = network.state_dict()

    def normed(x, name):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        if norm == "group":
            return F.relu(F.group_norm(x, x.shape[1] // 8, weight, bias))
        return F.relu(F.batch_norm(x, state[f"{name}.running_mean"], state[f"{name}.running_var"], weight, bias))

    x = F.conv2d(images, state["stem.0.weight"], padding=1)
    for stage in range(3):
        for block in range(2):
            here, stride = f"stages.{stage}.{block}", 2 if stage and not block else 1
            inner = x
            for number, (padding, step) in enumerate([(0, 1), (1, stride), (0, 1)]):
                part = f"{here}.convolutions.{number}"
                inner = F.conv2d(normed(inner, f"{part}.0"), state[f"{part}.2.weight"], padding=padding, stride=step)
            x = (x if block else F.conv2d(x, state[f"{here}.shortcut.0.weight"], stride=stride)) + inner
    features = normed(x, "last.0").mean((-2, -1))
    torch.testing.assert_close(network(images), F.linear(features, state["head.weight"], state["head.bias"]))


def test_scaling_is_that_of_the_equations():
    for channels in (8, 16, 24, 64, 2048):
        for factor in (0.01, 0.25, 1 / 3, 0.7, 0.75, 1.0):
            width = scaled_width(channels, factor)
            assert width % 8 == 0 and width - 8 < factor * channels <= width
    assert scaled_width(64, 0.25 + 0.75 / 3 * 2) == 48 and scaled_width(160, 0.1 * 3) == 48
    for layers in (1, 2, 3, 5, 18, 23):
        for factor in (0.01, 0.25, 1 / 3, 0.7, 1.0):
            assert scaled_depth(layers, factor) == max(1, math.floor(factor * layers + 0.5))
    # Halves go up, also where Python's rounding takes the even number below.
    assert [scaled_depth(layers, 0.5) for layers in (1, 3, 5, 9)] == [1, 2, 3, 5]


@pytest.mark.parametrize("width", FACTORS)
@pytest.mark.parametrize("depth", FACTORS)
@pytest.mark.parametrize(("name", "norm"), [("resnet20", "batch"), ("resnet50", "group"), ("cpreresnet20", "group")])
def test_every_factor_gives_a_network_of_that_size(name, norm, width, depth):
    network = build(name, width=width, depth=depth, norm=norm, draw=None)
    shape, expansion = RESNETS[name], 1 if name == "resnet20" else 4
    assert [len(stage) for stage in network.stages] == [scaled_depth(layers, depth) for layers in shape["layers"]]
    for stage, base in zip(network.stages, shape["widths"], strict=True):
        for block in stage:
            inner = [part.out_channels for part in block.convolutions.modules() if isinstance(part, nn.Conv2d)]
            assert set(inner[:-1]) == {scaled_width(base, width)}
            assert inner[-1] == scaled_width(expansion * base, width)
    assert network(torch.empty(2, 1, network.stride, network.stride + 1, device="meta")).shape == (2, 10)
    assert network.config.parameters == parameters(network)
    if norm == "group":
        groups = [module for module in network.modules() if isinstance(module, torch.nn.GroupNorm)]
        assert all(module.num_channels == 8 * module.num_groups for module in groups)


@pytest.mark.parametrize("name", ["resnet20", "cpreresnet20", "resnet18_cifar", "resnet18", "resnet50"])
def test_the_stride_is_that_of_the_features(name):
    network, seen = build(name, depth=0.01, draw=None), []
    network.stages[-1][-1].register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-2:]))
    for count in (1, 2):
        network(torch.empty(2, 1, count * network.stride, network.stride, device="meta"))
    assert seen == [(1, 1), (2, 1)]


# Growth


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", ["resnet20", "resnet50", "cpreresnet20"])
def test_what_was_trained_is_the_leading_corner_bit_for_bit(name, norm):
    network = trained(name=name, norm=norm, width=0.25, depth=0.3)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert network.grow(0.5, 0.8, torch.Generator().manual_seed(3))
    after = network.state_dict()
    assert before.keys() < after.keys()
    assert_same({key: after[key][tuple(map(slice, value.shape))] for key, value in before.items()}, before)
    assert all(value.dtype == before["head.weight"].dtype for value in after.values() if value.is_floating_point())
    drawn = build(name, norm=norm, width=0.5, depth=0.8, draw=3).double().state_dict()
    for key, value in after.items():
        if key in before:
            value[tuple(map(slice, before[key].shape))] = drawn[key][tuple(map(slice, before[key].shape))]
    assert_same(after, drawn)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", ["resnet20", "resnet50", "cpreresnet20"])
def test_growth_adds_to_the_function_and_changes_none_of_it(name, norm):
    """With what leads out of the new channels and blocks at zero, the network computes what it did."""
    network = trained(name=name, norm=norm, width=0.25, depth=0.3).eval()
    images = torch.rand(4, 1, 32, 33, dtype=torch.float64)
    before, expected = dict(network.state_dict()), network(images)
    network.grow(0.75, 1.0, torch.Generator().manual_seed(3))
    assert not torch.allclose(network(images), expected)
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if value.ndim > 1 and key in before:
                value[:, before[key].shape[1] :] = 0
        for stage, blocks in enumerate(network.stages):
            for number, block in enumerate(blocks):
                if f"stages.{stage}.{number}.convolutions.0.0.weight" not in before:
                    for parameter in block.convolutions[-1][-1].parameters():
                        parameter.zero_()
    # Blocks that were added pass the new channels on, but nothing reads those.
    torch.testing.assert_close(network(images), expected, rtol=1e-10, atol=1e-10)


def test_grown_at_once_or_in_steps_it_has_the_same_names_and_shapes():
    def shapes(network):
        return [(key, value.shape, value.dtype) for key, value in network.state_dict().items()]

    draw = torch.Generator().manual_seed(0)
    for norm in ("batch", "group"):
        steps, once = (build(width=0.25, depth=0.25, norm=norm) for _ in range(2))
        for width, depth in ((0.3, 0.25), (0.3, 0.8), (0.9, 1.0), (1.0, 1.0)):
            steps.grow(width, depth, draw)
        once.grow(1.0, 1.0, draw)
        assert shapes(steps) == shapes(once) == shapes(build(norm=norm)) and steps.config == once.config


def test_growth_to_what_it_is_changes_nothing():
    network, draw = build(width=0.5, depth=0.5), torch.Generator()
    before = dict(network.named_parameters())
    assert not network.grow(0.5, 0.5, draw) and not network.grow(0.5, 0.501, draw)
    assert all(before[name] is parameter for name, parameter in network.named_parameters())
    assert network.grow(0.51, 0.501, draw) and not network.grow(0.51, 0.51, draw)


def test_growth_draws_from_its_generator_alone_and_keeps_the_mode():
    network = build(width=0.5).eval()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    network.grow(1.0, 1.0, torch.Generator())
    assert torch.equal(torch.rand(3), expected) and not any(module.training for module in network.modules())
    assert_same(build(width=0.5).state_dict(), build(width=0.5).state_dict())


@pytest.mark.parametrize(("width", "depth", "name"), [(0.4, 1.0, "width=0.4"), (0.5, 0.9, "depth=0.9")])
def test_a_network_does_not_shrink(width, depth, name):
    with pytest.raises(ValueError, match=f"{name} must not be below the network's"):
        build(width=0.5).grow(width, depth, torch.Generator())


# Regularisation


def test_stochastic_depth_drops_images_from_blocks_and_keeps_the_mean():
    network = build("resnet8", stochastic_depth=0.6)
    assert [block.drop for stage in network.stages for block in stage] == pytest.approx([0.2, 0.4, 0.6])
    block, x = network.stages[-1][-1], torch.rand(2000, 32, 2, 2)
    with torch.no_grad():
        block.shortcut.eval()
        for convolution in block.convolutions:
            convolution.eval()
        passed = block.eval()(x)
        torch.manual_seed(0)
        block.drop, block.training = 0.6, True
        kept = (block(x) - F.relu(block.shortcut(x))).abs().amax((1, 2, 3)) > 1e-6
        inner = block.convolutions[1](F.relu(block.convolutions[0](x)))
        expected = F.relu(block.shortcut(x) + inner / 0.4)
        assert 1 - float(kept.float().mean()) == pytest.approx(0.6, abs=0.05)
        torch.manual_seed(0)
        torch.testing.assert_close(block(x)[kept], expected[kept])
    assert not torch.allclose(passed, expected)


def test_dropout_is_for_training_alone():
    network, images = build("resnet8", dropout=0.5), torch.rand(4, 1, 8, 8)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))
    assert torch.equal(network(images), network.head(network.features(images)))


# Files and bad input


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_saved_network_comes_back(tmp_path, norm):
    network = build("resnet8", width=0.5, norm=norm, dropout=0.1)
    network.grow(1.0, 1.0, torch.Generator().manual_seed(2))
    save_network(network, tmp_path)
    loaded = load_network(tmp_path)
    assert isinstance(loaded, ResNet) and loaded.config == network.config
    assert_same(loaded.state_dict(), network.state_dict())
    images = torch.rand(3, 1, 9, 8)
    assert torch.equal(loaded.eval()(images), network.eval()(images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (12, 32, 64)}, "must be multiples of 8"),
        ({"widths": (0, 32, 64)}, "must be at least 1"),
        ({"layers": (1, 1)}, "must have one number for each of widths"),
        ({"layers": (1, 0, 1)}, "must be at least 1"),
        ({"width": 0.0}, "width=0.0 must be above 0"),
        ({"depth": -1.0}, "depth=-1.0 must be above 0"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1"),
        ({"stochastic_depth": 1.5}, "stochastic_depth=1.5 must be"),
        ({"norm": "layer"}, "norm='layer' must be batch | group"),
        ({"classes": 0}, "classes=0 must be at least 1"),
    ],
)
def test_a_shape_that_no_network_has_is_refused(settings, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        ResNetConfig(**{"channels": 1, "classes": 10, **RESNETS["resnet8"], **settings})


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"name='resnet21' must be resnet8 .*; the nearest is resnet"):
        ModelRecipe(name="resnet21")
