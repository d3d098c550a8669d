# SPDX-License-Identifier: Apache-2.0
"""Subspaces and their levels in folders: had back bit for bit, and no larger than they have to be."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hylora.randomness import generator
from tests.outcomes import assert_same
from tests.vision_extras.models.architectures import TINY
from vision_extras.models import OwnNetwork, build_network, load_network, save_network
from vision_extras.subspaces import Bits, CompressibleSubspace, Sparsity, Width

LEVELS = {Sparsity: (0.0, 0.5, 0.9), Width: (1.0, 0.5, 0.25), Bits: (8, 5, 3)}
SIDES = {"resnet8": 8, "own": 8, "vit": 32, "resnet": 64, "vgg11": 64}
EVERY = [(kind, line) for kind in LEVELS for line in (False, True)]


def images(name):
    return torch.randn(2, 3, SIDES[name], SIDES[name], generator=torch.Generator().manual_seed(0))


def network(name, seed=0):
    return build_network(TINY[name][0], 3, 5, generator("weights", seed))


def subspace(name="resnet8", kind=Sparsity, line=True, keep=None, make=network):
    norms = {"norm": "instance" if kind is Width else "group", "groups": 4}
    if line:
        made = CompressibleSubspace.line(make(name), kind(), keep, make(name, 1), **norms)
    else:
        made = CompressibleSubspace.point(make(name), kind(), keep, **norms)
    made.position.activations = True
    # So that inputs have ranges.
    for level in LEVELS[kind][1:]:
        made.at_level(level)(images(name))
    return made.eval()


def assert_same_levels(found, expected, given):
    found.eval()
    for level in LEVELS[type(expected.compression)]:
        assert torch.equal(found.at_level(level)(given), expected.at_level(level)(given))


@pytest.mark.parametrize(("kind", "line"), EVERY)
def test_a_subspace_is_had_back_where_it_stood(tmp_path, kind, line):
    saved = subspace(kind=kind, line=line).at_level(LEVELS[kind][1])
    saved.save_pretrained(tmp_path / "made" / "on the way")
    found = load_network(tmp_path / "made" / "on the way")
    assert type(found) is CompressibleSubspace
    assert (found.compression, found.position, found.is_line) == (saved.compression, saved.position, line)
    assert_same(found.state_dict(), saved.state_dict())
    assert_same_levels(found, saved, images("resnet8"))


@pytest.mark.parametrize(("kind", "line"), EVERY)
def test_a_level_alone_is_what_export_gives(tmp_path, kind, line):
    saved = subspace(kind=kind, line=line).at_level(LEVELS[kind][0])
    before = saved.position.level
    for level in LEVELS[kind]:
        saved.save_level(tmp_path, level)
        found, expected = load_network(tmp_path).eval(), saved.export(level)
        assert type(found) is type(network("resnet8"))
        assert_same(found.state_dict(), expected.state_dict())
        assert torch.equal(found(images("resnet8")), expected(images("resnet8")))
        file = load_file(tmp_path / "model.safetensors")
        assert sum(tensor.nbytes for tensor in file.values()) == saved.level_size(level)
    assert saved.position.level == before


def test_levels_take_what_their_weights_take():
    """By hand, for the layers that are compressed: one bit and what stays, or so many bits; and two grids of each."""

    def make(name, seed=0):
        made = network(name, seed)
        for parameter in made.parameters():
            # Else shifts that are zero from the start are packed too.
            parameter.data.add_(0.1)
        return made

    sizes = [value.numel() for value in make("resnet8").parameters()]
    layers = [layer for layer in make("resnet8").modules() if isinstance(layer, nn.Conv2d)]
    counts = [layer.weight.numel() for layer in layers[1:]]
    rest = 4 * (sum(sizes) - sum(counts))
    for level, entropy, most in ((0.5, 1.0, 1.0), (0.9, 0.469, 0.7)):
        stay = [count - math.floor(round(level * count, 6)) for count in counts]
        values, masks = rest + 4 * sum(stay), sum(math.ceil(count / 8) for count in counts)
        found = subspace(kind=Sparsity, make=make).level_size(level)
        # Of half of the weights each needs its bit, of few less.
        assert values + entropy * sum(counts) / 8 <= found <= values + most * masks
    for bits in (8, 5, 3):
        expected = rest + sum(math.ceil(count * bits / 8) + 2 * 8 for count in counts)
        assert subspace(kind=Bits, make=make).level_size(bits) == expected


@pytest.mark.parametrize(("kind", "line"), EVERY)
def test_points_take_one_network_and_lines_two(tmp_path, kind, line):
    """Table 3.1; of widths, the norms alone are there twice. Names and ranges of inputs come on top."""
    saved = subspace(kind=kind, line=line)
    save_network(saved, tmp_path)
    plain = network("resnet8")
    twice = [value for name, value in plain.named_parameters() if kind is not Width or value.ndim == 1]
    expected = sum(value.nbytes for value in plain.parameters()) + line * sum(value.nbytes for value in twice)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert expected <= size < expected + 10_000


@pytest.mark.parametrize("name", [name for name in SIDES if name != "resnet8"])
@pytest.mark.parametrize("kind", [Sparsity, Bits])
def test_every_kind_of_network_is_had_back(tmp_path, name, kind):
    keep = () if name == "own" else None
    saved, given = subspace(name, kind, keep=keep), images(name)
    saved.save_pretrained(tmp_path)
    assert_same_levels(load_network(tmp_path), saved, given)
    level = LEVELS[kind][-1]
    saved.save_level(tmp_path, level)
    found = load_network(tmp_path).eval()
    assert_same(found.state_dict(), saved.export(level).state_dict())
    torch.testing.assert_close(found(given), saved.at_level(level)(given))


def plain(name, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("wrap", [plain, lambda *how: OwnNetwork(plain(*how))], ids=["plain", "in a run"])
def test_a_network_of_ones_own_is_passed(tmp_path, wrap):
    saved = subspace(keep=(), make=wrap)
    saved.save_pretrained(tmp_path)
    found = CompressibleSubspace.from_pretrained(tmp_path, network=plain("another", 7))
    assert type(found.network) is type(wrap("any"))
    assert_same_levels(found, saved, images("resnet8"))
    saved.save_level(tmp_path, 0.9)
    level = load_network(tmp_path, plain("another", 7)).eval()
    assert torch.equal(level(images("resnet8")), saved.at_level(0.9)(images("resnet8")))
    with pytest.raises(ValueError, match="the folder does not say how its network is made; pass it as network="):
        load_network(tmp_path)


@pytest.mark.parametrize("kind", LEVELS)
def test_what_is_not_trained_is_no_line_when_it_is_had_back_either(tmp_path, kind):
    def make(name, seed=0):
        made = network(name, seed)
        made.stages[0].requires_grad_(False)
        return made

    saved = subspace(kind=kind, make=make)
    saved.save_pretrained(tmp_path)
    found = load_network(tmp_path)
    assert_same(found.state_dict(), saved.state_dict())
    lines = {name for name in found.state_dict() if name.endswith(".original1")}
    assert lines and not any(name.startswith("network.stages.0.") for name in lines)


@pytest.mark.parametrize("kind", LEVELS)
def test_what_is_frozen_later_is_had_back(tmp_path, kind):
    saved = subspace(kind=kind)
    for parameter in saved.parameters():
        parameter.requires_grad_(False)
    saved.save_pretrained(tmp_path)
    assert_same(load_network(tmp_path).state_dict(), saved.state_dict())


@pytest.mark.parametrize("kind", LEVELS)
def test_half_precision_is_had_back(tmp_path, kind):
    saved = subspace(kind=kind).to(torch.bfloat16)
    saved.save_pretrained(tmp_path / "all")
    saved.save_level(tmp_path / "level", LEVELS[kind][1])
    assert_same(load_network(tmp_path / "all").state_dict(), saved.state_dict())
    assert_same(load_network(tmp_path / "level").state_dict(), saved.export(LEVELS[kind][1]).state_dict())


def test_a_state_from_elsewhere_is_written(tmp_path):
    saved = subspace()
    other = subspace(make=lambda name, seed=0: network(name, seed + 2)).at_level(0.5)
    save_network(saved, tmp_path, other.state_dict())
    assert_same(load_network(tmp_path).state_dict(), other.state_dict())
    assert json.loads((tmp_path / "config.json").read_text())["position"] == {
        "alpha": 0.5,
        "level": 0.5,
        "activations": True,
    }


def test_levels_that_were_not_trained_are_refused(tmp_path):
    with pytest.raises(ValueError, match="level=0.99 must be from 0.0 to 0.975"):
        subspace().save_level(tmp_path / "none", 0.99)
    assert not (tmp_path / "none").exists()
