# SPDX-License-Identifier: Apache-2.0
"""A subspace as its users meet it: a network at every level."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from hylora.randomness import generator
from vision_extras.models import ModelRecipe, build_network
from vision_extras.subspaces import Bits, CompressibleSubspace, Sparsity, Width

IMAGES = torch.randn(3, 1, 9, 11, generator=torch.Generator().manual_seed(0))


def network(seed=0, name="resnet8"):
    return build_network(ModelRecipe(name=name, norm="group"), 1, 5, generator("weights", seed)).eval()


def tied():
    layers = [nn.Linear(4, 4) for _ in range(4)]
    layers[2].weight = layers[1].weight
    return nn.Sequential(*layers)


def line():
    return CompressibleSubspace.line(network(0), Sparsity(), other=network(1))


def by_hand(alpha):
    """The plain network between two others, with zeros where a sort of each layer has its smallest weights."""
    made, first, second = network(), network(0).state_dict(), network(1).state_dict()
    layers = [name for name, module in made.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    state = {name: alpha * first[name] + (1 - alpha) * second[name] for name in first}
    for name in layers[1:-1]:
        weight = state[f"{name}.weight"]
        count = int(round((1 - alpha) * 1000) * weight.numel() // 1000)
        weight.flatten()[weight.abs().flatten().argsort()[:count]] = 0
    made.load_state_dict(state)
    return made


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.123, 0.025])
def test_at_a_point_it_is_the_network_by_hand(alpha):
    torch.testing.assert_close(line().at(alpha)(IMAGES), by_hand(alpha)(IMAGES))


@pytest.mark.parametrize("make", [line, lambda: CompressibleSubspace.point(network(), Sparsity())])
def test_an_export_is_a_plain_network_that_is_the_subspace_there(make):
    subspace = make()
    for level in (0.0, 0.5, 0.9):
        plain = subspace.export(level)
        assert not any(map(parametrize.is_parametrized, plain.modules()))
        assert plain.state_dict().keys() == network().state_dict().keys()
        assert all(isinstance(value, nn.Parameter) for value in dict(plain.named_parameters()).values())
        assert torch.equal(plain(IMAGES), subspace.at_level(level)(IMAGES))
    assert subspace.position.level == 0.9


def test_what_torch_has_cached_of_another_level_is_not_exported():
    subspace = line()
    with torch.no_grad(), parametrize.cached():
        subspace.at_level(0.0)(IMAGES)
        plain = subspace.export(0.9)
    assert torch.equal(plain(IMAGES), subspace.at_level(0.9)(IMAGES))


def test_what_is_frozen_is_exported_so():
    subspace = line()
    for name, parameter in subspace.named_parameters():
        parameter.requires_grad_("stem" not in name)
    assert {name: value.requires_grad for name, value in subspace.export(0.5).named_parameters()} == {
        name: not name.startswith("stem") for name, _ in network().named_parameters()
    }


def test_points_may_have_tied_weights():
    subspace = CompressibleSubspace.point(tied(), Sparsity()).at_level(0.5)
    assert not subspace.is_line
    assert torch.equal(subspace.network[1].weight, subspace.network[2].weight)


def test_a_point_of_weights_with_parametrizations_of_their_own_is_no_line():
    made = network()
    nn.utils.parametrizations.weight_norm(made.stages[0][0].convolutions[0][0])
    subspace = CompressibleSubspace.point(made, Sparsity())
    assert not subspace.is_line
    assert torch.equal(subspace.export(0.9)(IMAGES), subspace.at_level(0.9)(IMAGES))


@pytest.mark.slow
def test_a_compiled_subspace_follows_its_level():
    subspace = line()
    compiled = torch.compile(subspace, backend="eager")
    for level in (0.0, 0.9, 0.3):
        subspace.at_level(level)
        torch.testing.assert_close(compiled(IMAGES), subspace(IMAGES))


def test_an_export_shares_no_memory():
    subspace = line()
    before = copy.deepcopy(subspace.state_dict())
    with torch.no_grad():
        for parameter in subspace.export(0.5).parameters():
            parameter.fill_(7)
    assert all(torch.equal(value, before[name]) for name, value in subspace.state_dict().items())


def test_a_level_and_back_changes_nothing():
    subspace = line().at(0.8)
    state, logits = copy.deepcopy(subspace.state_dict()), subspace(IMAGES)
    subspace.at(0.1)(IMAGES)
    subspace.at(0.8)
    assert torch.equal(subspace(IMAGES), logits)
    assert all(torch.equal(value, state[name]) for name, value in subspace.state_dict().items())


def test_the_position_is_part_of_the_state():
    subspace, other = line().at(0.3), line()
    subspace.position.activations = True
    assert not torch.equal(other(IMAGES), subspace(IMAGES))
    other.load_state_dict(subspace.state_dict())
    assert other.position == subspace.position
    assert torch.equal(other(IMAGES), subspace(IMAGES))


def test_a_copy_goes_its_own_way():
    subspace = line()
    taken = copy.deepcopy(subspace).at(0.1)
    assert subspace.position.alpha == 1 and not torch.equal(taken(IMAGES), subspace(IMAGES))


def test_the_first_and_the_last_layer_stay():
    plain, dense = line().export(0.9), line().export(0.0)
    weights = {name: value for name, value in plain.named_parameters() if value.ndim > 1}
    zeros = {name: float((value == 0).float().mean()) for name, value in weights.items()}
    first, *others, last = zeros.values()
    assert first == last == 0 and all(abs(share - 0.9) < 0.01 for share in others)
    assert all((value == 0).sum() == 0 for name, value in dense.named_parameters() if value.ndim > 1)


def test_which_layers_stay_can_be_said():
    keep = ("head", "stem.0", "stages.0.0.convolutions.0.0")
    plain = CompressibleSubspace.point(network(), Sparsity(), keep=keep).export(0.9)
    assert {name for name, value in plain.named_parameters() if value.ndim > 1 and not (value == 0).any()} == {
        f"{name}.weight" for name in keep
    }
    with pytest.raises(ValueError, match="keep=.'hed'. must be names of convolutions or linear layers"):
        CompressibleSubspace.point(network(), Sparsity(), keep=("hed",))


def test_lines_begin_at_both_networks():
    subspace = line()
    ends = dict(subspace.network.named_parameters())
    for name, value in network(1).named_parameters():
        path, _, attribute = name.rpartition(".")
        assert torch.equal(ends[f"{path}.parametrizations.{attribute}.original1"], value)
    same = CompressibleSubspace.line(network(0), Sparsity(0.0, 0.0))
    torch.testing.assert_close(same.at(1.0)(IMAGES), network(0)(IMAGES))


def test_points_have_as_many_parameters_as_the_network_and_lines_twice():
    count = sum(value.numel() for value in network().parameters())
    assert sum(value.numel() for value in line().parameters()) == 2 * count
    assert sum(value.numel() for value in CompressibleSubspace.point(network(), Sparsity()).parameters()) == count


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: line().at(0.01), "alpha=0.01 must be from 0.025 to 1, the ends of the subspace"),
        (lambda: CompressibleSubspace.point(network(), Bits()).at(1.1), "alpha=1.1 must be from 0.166667 to 1"),
        (lambda: CompressibleSubspace.line(tied(), Sparsity()), "2.weight and 1.weight are one parameter"),
        (
            lambda: CompressibleSubspace.line(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)), Width()),
            "no parameter that could differ between the ends of a line; make a point",
        ),
        (lambda: line().at_level(0.98), "level=0.98 must be from 0.0 to 0.975"),
        (lambda: line().export(1.0), "level=1.0 must be from 0.0 to 0.975"),
        (lambda: CompressibleSubspace.point(nn.Linear(2, 2), Sparsity()), "none is left to compress"),
        (
            lambda: CompressibleSubspace.line(network(), Sparsity(), other=network(0, "resnet18_cifar")),
            "both ends must be networks of one shape",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
