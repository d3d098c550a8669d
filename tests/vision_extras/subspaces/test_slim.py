# SPDX-License-Identifier: Apache-2.0
"""A slim layer is, at every width, the plain layer with the first of its channels."""

import copy
from fractions import Fraction

import pytest
import torch
from torch import nn

from vision_extras.subspaces.position import Position
from vision_extras.subspaces.slim import Slim, channels_at, make_slim, slim_class

_DRAW = torch.Generator().manual_seed(0)


def drawn(*shape):
    return torch.randn(shape, generator=_DRAW, dtype=torch.float64)


def slimmed(layer, level, whole=False):
    layer = copy.deepcopy(layer)
    make_slim(layer, slim_class(layer), Position(0.0, level), whole)
    return layer


@torch.no_grad()
def fill(layer):
    """Random parameters and statistics, in double precision."""
    layer.double()
    for value in layer.state_dict().values():
        if value.is_floating_point():
            value.copy_(drawn(*value.shape).abs() + 0.1)
    return layer


def corner(layer, plain):
    """Copy the leading corner of a layer's tensors into a smaller one."""
    ours = layer.state_dict()
    with torch.no_grad():
        for name, value in plain.double().state_dict().items():
            value.copy_(ours[name][tuple(map(slice, value.shape))])
    return plain


# A layer, the same with 3 inputs and the outputs at width 0.45, and an input of 3 channels.
_CASES = {
    "conv1d": (nn.Conv1d(5, 10, 3, padding=1), nn.Conv1d(3, 5, 3, padding=1), (2, 3, 7)),
    "conv2d": (nn.Conv2d(5, 9, 3, 2, 1, bias=False), nn.Conv2d(3, 4, 3, 2, 1, bias=False), (2, 3, 7, 5)),
    "conv2d, same": (nn.Conv2d(5, 9, 3, padding="same"), nn.Conv2d(3, 4, 3, padding="same"), (2, 3, 7, 5)),
    "conv2d, circular": (
        nn.Conv2d(5, 9, (3, 1), 2, (1, 0), padding_mode="circular"),
        nn.Conv2d(3, 4, (3, 1), 2, (1, 0), padding_mode="circular"),
        (2, 3, 7, 5),
    ),
    "conv3d, dilated": (nn.Conv3d(5, 9, 2, dilation=2), nn.Conv3d(3, 4, 2, dilation=2), (2, 3, 4, 5, 3)),
    "depthwise": (nn.Conv2d(5, 10, 3, groups=5), nn.Conv2d(3, 6, 3, groups=3), (2, 3, 7, 5)),
    "linear": (nn.Linear(5, 9), nn.Linear(3, 4), (2, 6, 3)),
    "instance norm": (nn.InstanceNorm2d(5, affine=True), nn.InstanceNorm2d(3, affine=True), (2, 3, 7, 5)),
    "instance norm, tracked": (
        nn.InstanceNorm1d(5, track_running_stats=True),
        nn.InstanceNorm1d(3, track_running_stats=True),
        (2, 3, 7),
    ),
    "batch norm": (nn.BatchNorm2d(5), nn.BatchNorm2d(3), (2, 3, 7, 5)),
    "batch norm, of vectors": (nn.BatchNorm1d(5, momentum=None), nn.BatchNorm1d(3, momentum=None), (4, 3)),
    "batch norm, plain": (
        nn.BatchNorm1d(5, affine=False, track_running_stats=False),
        nn.BatchNorm1d(3, affine=False, track_running_stats=False),
        (4, 3),
    ),
    "group norm, one": (nn.GroupNorm(1, 5), nn.GroupNorm(1, 3), (2, 3, 7, 5)),
    "group norm, of channels": (nn.GroupNorm(5, 5), nn.GroupNorm(3, 3), (2, 3, 7, 5)),
}


@pytest.mark.parametrize("name", _CASES)
@pytest.mark.parametrize("training", [True, False])
def test_it_is_the_smaller_layer_and_trains_as_it(name, training):
    layer, plain, shape = _CASES[name]
    layer = fill(copy.deepcopy(layer)).train(training)
    plain, slim = corner(layer, copy.deepcopy(plain)).train(training), slimmed(layer, 0.45)
    ours, theirs = drawn(*shape).requires_grad_(), None
    theirs = ours.detach().clone().requires_grad_()

    found, expected = slim(ours), plain(theirs)
    torch.testing.assert_close(found, expected)
    slope = drawn(*expected.shape)
    found.backward(slope)
    expected.backward(slope)

    torch.testing.assert_close(ours.grad, theirs.grad)
    for (key, value), small in zip(slim.named_parameters(), plain.parameters(), strict=True):
        padded = torch.zeros_like(value)
        padded[tuple(map(slice, small.shape))] = small.grad
        torch.testing.assert_close(value.grad, padded, msg=f"gradient of {key}")
    before, after, small = layer.state_dict(), slim.state_dict(), plain.state_dict()
    assert after.keys() == before.keys()
    for key, value in after.items():
        untouched = torch.ones(value.shape, dtype=torch.bool)
        untouched[tuple(map(slice, small[key].shape))] = False
        torch.testing.assert_close(value[~untouched], small[key].flatten(), msg=key)
        assert torch.equal(value[untouched], before[key][untouched]), key


@pytest.mark.parametrize("name", _CASES)
def test_it_settles_into_the_smaller_layer(name):
    layer, plain, shape = _CASES[name]
    layer, x = fill(copy.deepcopy(layer)).eval(), drawn(*shape)
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    slim = slimmed(layer, 0.45)
    expected = slim(x)

    slim.settle(3)

    assert type(slim) is type(plain)
    assert slim.extra_repr() == plain.extra_repr()
    assert {k: v.shape for k, v in slim.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    assert not any(parameter.requires_grad for parameter in slim.parameters())
    assert vars(slim).keys() == vars(plain).keys()
    assert torch.equal(slim(x), expected)


@pytest.mark.parametrize("kind", [nn.Linear, lambda *channels: nn.Conv2d(*channels, 1)])
def test_a_whole_layer_keeps_its_outputs(kind):
    layer = slimmed(kind(8, 6), 0.5, whole=True)
    x = torch.randn(2, 4, *([] if isinstance(layer, nn.Linear) else [1, 1]))
    assert layer(x).shape[1] == 6


def test_channels_are_rounded_half_up_and_one_stays():
    for channels in (1, 2, 3, 10, 50, 64, 100):
        for hundredths in range(1, 101):
            exact = Fraction(hundredths, 100) * channels
            assert channels_at(hundredths / 100, channels) == max(1, (2 * exact + 1) // 2)


class Own(nn.Conv2d):
    def forward(self, input):
        return super().forward(input) + self.weight.sum()


@pytest.mark.parametrize(
    "layer, message",
    [
        (nn.Conv2d(8, 8, 3, groups=2), "groups=2 has several channels.* take groups=1, or one for each channel"),
        (nn.GroupNorm(2, 8), r"its 2 groups would not divide .* subspace.norm='instance'"),
        (Own(4, 4, 1), "the forward pass of Own may use more than the first of its channels"),
        (nn.ConvTranspose2d(4, 4, 1), "forward pass of ConvTranspose2d"),
        (nn.SyncBatchNorm(4), "forward pass of SyncBatchNorm"),
    ],
)
def test_layers_whose_first_channels_are_no_layer_are_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        slim_class(layer)


def test_linear_layers_of_timm_are_as_those_of_torch():
    class Linear(nn.Linear):
        __module__ = "timm.layers.linear"

        def forward(self, input):
            return nn.functional.linear(input, self.weight, self.bias)

    layer, x = slimmed(Linear(8, 6), 0.5), torch.randn(2, 4)
    expected = layer(x)
    layer.settle(4)
    assert type(layer) is Linear and torch.equal(layer(x), expected)


def test_other_modules_have_no_slim_counterpart():
    assert all(slim_class(module) is None for module in (nn.ReLU(), nn.LayerNorm(4), nn.Sequential(nn.Linear(2, 2))))
    assert issubclass(slim_class(nn.Linear(2, 2)), Slim)
