# SPDX-License-Identifier: Apache-2.0
"""Quantised layers against their definition: values, gradients, ranges, and what is deployed."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hylora.randomness import generator
from vision_extras.metrics.flops import on_meta
from vision_extras.models import ModelRecipe, build_network
from vision_extras.models.grid import grid_of
from vision_extras.subspaces import Bits, CompressibleSubspace
from vision_extras.subspaces.position import Position
from vision_extras.subspaces.quantizer import FixedQuantizer, InputQuantizer, WeightQuantizer, quantized

BITS = range(3, 9)
IMAGES = torch.randn(3, 1, 9, 11, generator=torch.Generator().manual_seed(0))


def network(seed=0, norm="group"):
    return build_network(ModelRecipe(name="resnet8", norm=norm), 1, 5, generator("weights", seed))


def line():
    subspace = CompressibleSubspace.line(network(0), Bits(), other=network(1))
    subspace.position.activations = True
    return subspace


def trained(make=line):
    """With ranges of three widths."""
    subspace = make()
    for bits in (8, 6, 3):
        subspace.at_level(bits)(IMAGES)
    return subspace.eval()


def on_grid(x, low, high, bits):
    """The definition, in numbers that are exact enough: a step, and an integer that stands for 0."""
    low, high = min(float(low), 0), max(float(high), 0)
    scale = torch.tensor(high - low) / (2**bits - 1)
    if not scale:
        return x
    zero = (-(2 ** (bits - 1)) - low / scale).round()
    integers = ((x / scale).round() + zero).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return scale * (integers - zero)


def test_gamma_is_two_and_six_alpha_both_ways():
    bits = Bits()
    assert [bits.level(number / 6) for number in range(1, 7)] == [3, 4, 5, 6, 7, 8]
    assert [bits.level(bits.alpha(level)) for level in BITS] == [*BITS]
    assert bits.levels() == (8, 7, 6, 5, 4, 3)
    assert [bits.annealed(3, left) for left in (1.0, 0.5, 0.0)] == [8, 6, 3]


@pytest.mark.parametrize(("weakest", "strongest"), [(9, 3), (8, 2), (4, 5), (7.5, 3)])
def test_ranges_that_make_no_sense_are_refused(weakest, strongest):
    with pytest.raises(ValueError, match=f"weakest={weakest}.*must be numbers of bits from 8 to 3"):
        Bits(weakest, strongest)


@pytest.mark.parametrize("shift", [0.0, 9.0, -9.0])
@pytest.mark.parametrize("shape", [(7,), (5, 3), (4, 3, 3, 3), (1, 1)])
def test_a_weight_is_on_the_grid_of_its_own_range(shape, shift):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + shift
    for bits in BITS:
        found = WeightQuantizer(Position(1.0, bits))(weight)
        assert torch.equal(found, on_grid(weight, weight.min(), weight.max(), bits))
        assert len(found.unique()) <= 2**bits
    zero = torch.zeros(shape)
    assert torch.equal(WeightQuantizer(Position(1.0, 3))(zero), zero)


def test_gradients_pass_as_they_are_outside_of_the_range_too():
    x = torch.tensor([-9.0, -0.3, 0.0, 0.4, 9.0], requires_grad=True)
    found = quantized(x, grid_of(torch.tensor(-1.0), torch.tensor(1.0), 3))
    assert not torch.equal(found, x)
    gradient = torch.tensor([1.0, -2.0, 3.0, 0.5, 7.0])
    found.backward(gradient)
    assert torch.equal(x.grad, gradient)


def test_gradients_of_a_layer_are_those_by_hand():
    """To both ends of a line, past the rounding of weights and of what the layer is given."""
    layers = [nn.Linear(4, 3), nn.Linear(4, 3)]
    weights, biases = ([layer.state_dict()[name].clone() for layer in layers] for name in ("weight", "bias"))
    subspace = CompressibleSubspace.line(layers[0], Bits(), keep=(), other=layers[1]).at(4 / 6)
    subspace.position.activations = True
    x, gradient = torch.randn(5, 4, requires_grad=True), torch.randn(5, 3)
    found = subspace(x)
    found.backward(gradient)
    alpha, inputs = 4 / 6, x.detach()
    weight, bias = (alpha * ends[0] + (1 - alpha) * ends[1] for ends in (weights, biases))
    weight = on_grid(weight, weight.min(), weight.max(), 6)
    given = on_grid(inputs, inputs.min(), inputs.max(), 6)
    torch.testing.assert_close(found, F.linear(given, weight, bias))
    parameters = subspace.network.parametrizations.weight
    torch.testing.assert_close(parameters.original0.grad, alpha * gradient.T @ given)
    torch.testing.assert_close(parameters.original1.grad, (1 - alpha) * gradient.T @ given)
    torch.testing.assert_close(x.grad, gradient @ weight)


def test_ranges_are_moving_averages_for_each_width_alone():
    quantizer, batches = InputQuantizer(Position(1.0, 8)), torch.randn(6, 50)
    expected = torch.zeros(6, 2)
    for bits, batch in zip((8, 8, 5, 8, 5, 3), batches, strict=True):
        quantizer._position.level = float(bits)
        assert torch.equal(quantizer(batch), batch)
        row, extremes = expected[bits - 3], torch.stack([batch.min(), batch.max()])
        row.copy_(0.9 * row + 0.1 * extremes if row.any() else extremes)
    torch.testing.assert_close(quantizer.ranges, expected)
    quantizer.eval()(10 * batches)
    torch.testing.assert_close(quantizer.ranges, expected)


@pytest.mark.parametrize(
    ("seen", "taken"),
    [
        ((8,), {3: 8, 7: 8, 8: 8}),
        ((3,), {3: 3, 8: 3}),
        ((4, 6), {3: 4, 4: 4, 5: 6, 7: 6}),
        ((3, 6, 8), {4: 3, 5: 6, 7: 8}),
    ],
)
def test_a_width_that_was_never_seen_takes_the_range_of_the_nearest(seen, taken):
    quantizer = InputQuantizer(Position(1.0, 8, activations=True))
    for bits in seen:
        quantizer._position.level = bits
        quantizer(torch.tensor([-1.0, bits]))
    quantizer.eval()
    x = torch.linspace(-3, 9, 100)
    for bits, other in taken.items():
        quantizer._position.level = bits
        assert torch.equal(quantizer(x), on_grid(x, -1, other, bits)), bits


def test_with_no_range_at_all_inputs_stay():
    x = torch.randn(9)
    quantizer = InputQuantizer(Position(1.0, 3, activations=True)).eval()
    assert torch.equal(quantizer(x), x) and torch.equal(quantizer.settled()(x), x)
    # Nothing but zeros says nothing either.
    quantizer.train()(torch.zeros(3))
    assert torch.equal(quantizer.eval()(x), x)


def test_inputs_are_quantised_where_the_position_says_so():
    subspace = trained().at_level(3)
    with_inputs = subspace(IMAGES)
    subspace.position.activations = False
    weights_alone = subspace(IMAGES)
    assert not torch.equal(with_inputs, weights_alone)
    # As in an evaluation before the end of the warm-up.
    fresh = line().eval().at_level(3)
    assert torch.equal(fresh(IMAGES), weights_alone)


def test_a_copy_quantises_by_itself():
    subspace = trained()
    before, state = subspace.at_level(8)(IMAGES), copy.deepcopy(subspace.state_dict())
    taken = copy.deepcopy(subspace).train()
    taken.at_level(8)(100 * IMAGES)
    assert torch.equal(subspace(IMAGES), before)
    assert all(torch.equal(value, state[name]) for name, value in subspace.state_dict().items())
    assert not torch.equal(taken.eval()(IMAGES), before)


def test_no_pass_waits_for_a_value():
    """Where there are none, whatever asks for one fails."""
    subspace = on_meta(line().at_level(5))
    images = torch.empty(3, 1, 8, 8, device="meta")
    for _ in range(2):
        assert subspace(images).is_meta
        subspace.eval()


def test_another_level_and_back_changes_nothing():
    subspace = trained().at_level(5)
    before = subspace(IMAGES)
    for bits in BITS:
        subspace.at_level(bits)(IMAGES)
    assert torch.equal(subspace.at_level(5)(IMAGES), before)


@pytest.mark.parametrize("activations", [True, False])
def test_what_is_deployed_is_the_subspace_at_its_level(activations):
    subspace = trained()
    subspace.position.activations = activations
    for bits in (8, 5, 3):
        plain = subspace.export(bits)
        assert torch.equal(plain(IMAGES), subspace.at_level(bits)(IMAGES))
        fixed = [module for module in plain.modules() if isinstance(module, FixedQuantizer)]
        # All but the first and the last of a ResNet-8's layers.
        assert len(fixed) == (8 if activations else 0)
        ends = subspace.network.stages[0][0].convolutions[0][0].parametrizations.weight
        alpha = subspace.position.alpha
        between = (alpha * ends.original0 + (1 - alpha) * ends.original1).detach()
        expected = on_grid(between, between.min(), between.max(), bits)
        assert torch.equal(plain.stages[0][0].convolutions[0][0].weight, expected)


def test_what_is_deployed_can_be_traced():
    subspace = trained()
    for bits in (8, 3):
        plain = subspace.export(bits)
        traced = torch.export.export(plain, (IMAGES,)).module()
        assert torch.equal(traced(IMAGES), subspace.at_level(bits)(IMAGES))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_of_floats_work(dtype):
    subspace = trained().to(dtype).at_level(4)
    images = IMAGES.to(dtype)
    assert subspace(images).dtype == dtype
    assert torch.equal(subspace.export(4)(images), subspace(images))
