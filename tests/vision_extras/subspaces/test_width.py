# SPDX-License-Identifier: Apache-2.0
"""A network of adaptive width is, at each of them, the plain narrow network with the first of its channels."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.func import functional_call

from hylora.randomness import generator
from hylora.training.moment import Moment
from hylora.training.recipe import RecipeError
from tests.vision_extras import small as runs
from vision_extras.models import ModelRecipe, OwnNetwork, build_network
from vision_extras.run import make_task
from vision_extras.subspaces import (
    CompressibleSubspace,
    Curriculum,
    SubspaceRecipe,
    SubspaceTraining,
    Width,
    replace_batch_norms,
)
from vision_extras.subspaces.slim import Slim

IMAGES = torch.randn(3, 2, 7, 6, generator=torch.Generator().manual_seed(0))
# Channels of the small network below at each width: 9 and 14 of them, halves rounded up.
CHANNELS = {1.0: (9, 14), 0.25: (2, 4), 0.45: (4, 6), 0.5: (5, 7), 0.7: (6, 10), 0.97: (9, 14)}


def each_channel(channels: int) -> nn.GroupNorm:
    """What batch norms are replaced by."""
    return nn.GroupNorm(channels, channels)


class Small(nn.Module):
    """Every kind of convolution, an addition, and norms; `a` and `b` are its channels."""

    def __init__(self, a: int, b: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, a, 3, padding=1)
        self.depthwise = nn.Conv2d(a, a, 3, padding=1, groups=a, bias=False)
        self.wide = nn.Conv2d(a, b, 1, bias=False)
        self.back = nn.Conv2d(b, a, 1)
        self.norms = nn.ModuleList(norm(channels) for channels in (a, a, b))
        self.head = nn.Linear(a, 3)

    def forward(self, images):
        first = self.norms[0](self.first(images)).relu()
        inner = self.norms[1](self.depthwise(first)).relu()
        inner = self.norms[2](self.wide(inner)).relu()
        return self.head((first + self.back(inner)).mean((2, 3)))


def small(seed, norm):
    torch.manual_seed(seed)
    network = Small(9, 14, norm)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    for name, value in network.named_buffers():
        if name.endswith(("mean", "var")):
            value.uniform_(0.5, 1.5)
    return network


def subspace(kind, norm):
    network = small(0, norm)
    if kind == "point":
        return CompressibleSubspace.point(network, Width())
    return CompressibleSubspace.line(network, Width(), other=small(1, norm))


def by_hand(subspace, alpha, channels, norm):
    """A plain network of so many channels, and its parameters and buffers as functions of the subspace's."""
    plain, tensors = Small(*channels, norm), {}
    state = {**dict(subspace.network.named_parameters()), **dict(subspace.network.named_buffers())}
    for name, small in plain.state_dict().items():
        path, _, attribute = name.rpartition(".")
        ends = [state.get(f"{path}.parametrizations.{attribute}.original{end}") for end in (0, 1)]
        full = state[name] if ends[0] is None else alpha * ends[0] + (1 - alpha) * ends[1]
        tensors[name] = full[tuple(map(slice, small.shape))]
    return plain.train(subspace.training), tensors


@pytest.mark.parametrize("kind", ["line", "point"])
@pytest.mark.parametrize("norm", [each_channel, nn.BatchNorm2d])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("level", CHANNELS)
def test_forward_and_backward_are_those_of_the_narrow_network(kind, norm, training, level):
    network = subspace(kind, norm).train(training).at_level(level)
    plain, tensors = by_hand(network, network.position.alpha, CHANNELS[level], norm)
    expected = functional_call(plain, {name: value.clone() for name, value in tensors.items()}, IMAGES)
    parameters = list(network.parameters())
    slopes = torch.autograd.grad(expected.square().sum(), parameters, retain_graph=True)

    found = network(IMAGES)
    found.square().sum().backward()

    torch.testing.assert_close(found, expected)
    for (name, parameter), slope in zip(network.named_parameters(), slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope, msg=lambda text, name=name: f"{name}: {text}")


def test_losses_of_a_sandwich_are_summed():
    """Algorithm 1 by hand, on four plain networks that share their weights."""
    network = subspace("line", each_channel)
    curriculum = Curriculum(network.compression, SubspaceRecipe(kind="line", compression="width"))
    method, moment = SubspaceTraining(network, curriculum), Moment(3, 10, 0)

    def accumulate():
        loss = network(IMAGES).square().sum()
        loss.backward()
        return loss.detach()

    method.begin(moment)
    method.gradients(accumulate)
    draws, losses = curriculum.draws(moment), []
    assert [draw.level for draw in draws[:2]] == [0.25, 1.0] and all(0.25 < draw.level < 1 for draw in draws[2:])
    for alpha, level in draws:
        channels = tuple(int(level * full + 0.5) for full in (9, 14))
        plain, tensors = by_hand(network, alpha, channels, each_channel)
        losses.append(functional_call(plain, tensors, IMAGES).square().sum())
    slopes = torch.autograd.grad(sum(losses), list(network.parameters()))
    for (name, parameter), slope in zip(network.named_parameters(), slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("ends", [(1.0, 0.25), (0.9, 0.55), (1.0, 0.57), (0.7, 0.1)])
def test_points_of_the_line_are_widths_and_back(ends):
    width = Width(*ends)
    assert [width.level(alpha) for alpha in (1.0, 0.0)] == list(ends)
    assert [width.alpha(level) for level in ends] == [1.0, 0.0]
    assert width.level(width.alpha(0.6)) == pytest.approx(0.6)
    assert width.level(0.25) == pytest.approx(0.25 * ends[0] + 0.75 * ends[1])


def test_only_scales_and_shifts_of_norms_are_lines():
    names = dict(subspace("line", each_channel).network.named_parameters())
    assert {name for name in names if "original" in name} == {
        f"norms.{number}.parametrizations.{tensor}.original{end}"
        for number in range(3)
        for tensor in ("weight", "bias")
        for end in (0, 1)
    }
    assert not any(name.startswith("norms") and "original" not in name for name in names)


@pytest.mark.parametrize("norm", [each_channel, nn.BatchNorm2d])
def test_names_are_those_of_the_network(norm):
    network = subspace("point", norm)
    assert {name: value.shape for name, value in network.network.state_dict().items()} == {
        name: value.shape for name, value in Small(9, 14, norm).state_dict().items()
    }


def hub(**config):
    return ModelRecipe(name="transformers", config=config)


NETWORKS = {
    "resnet8": (ModelRecipe(), 9),
    "vgg11": (ModelRecipe(name="vgg11", width=0.25), 40),
    "mobilenet_v2": (hub(model_type="mobilenet_v2", depth_multiplier=0.2), 64),
    "vit": (
        hub(
            model_type="vit",
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=27,
            patch_size=8,
            image_size=32,
        ),
        32,
    ),
}


def made(name, kind="line", norm="instance"):
    recipe, side = NETWORKS[name]
    network, other = (build_network(recipe, 2, 5, generator("weights", seed)) for seed in (0, 1))
    torch.manual_seed(0)
    for end in (network, other):
        if norm != "keep":
            replace_batch_norms(end, norm)
        for parameter in end.parameters():
            nn.init.normal_(parameter, std=0.2)
    if kind == "point":
        subspace = CompressibleSubspace.point(network, Width())
    else:
        subspace = CompressibleSubspace.line(network, Width(), other=other)
    return subspace.eval(), torch.randn(2, 2, side, side)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ["line", "point"])
def test_an_export_is_a_smaller_plain_network_that_is_the_subspace_there(name, kind):
    subspace, images = made(name, kind)
    recipe = NETWORKS[name][0]
    full = build_network(recipe, 2, 5, None)
    replace_batch_norms(full, "instance")
    counts = []
    for level in (0.25, 0.45, 0.7, 1.0):
        plain = subspace.export(level)
        assert torch.equal(plain(images), subspace.at_level(level)(images))
        subspace.check(images)
        assert [type(module) for module in plain.modules()] == [type(module) for module in full.modules()]
        assert plain.state_dict().keys() == full.state_dict().keys()
        counts.append(sum(value.numel() for value in plain.parameters()))
    assert counts[0] < counts[1] < counts[2] < counts[3]
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in full.state_dict().items()}
    assert all(isinstance(module, Slim) for module in subspace.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))


@pytest.mark.parametrize("level", [0.25, 0.45, 0.7])
def test_transformers_makes_the_network_that_is_exported(level):
    """A residual network of its own at that size, with the leading corners of all tensors."""
    sizes = [10, 14, 23, 30]
    config = {"model_type": "resnet", "layer_type": "basic", "depths": [1, 1, 2, 1]}
    network = build_network(hub(**config, embedding_size=9, hidden_sizes=sizes), 2, 5, generator("weights", 0))
    by_hand = {0.25: [2, 3, 4, 6, 8], 0.45: [4, 5, 6, 10, 14], 0.7: [6, 7, 10, 16, 21]}[level]
    config |= {"embedding_size": by_hand[0], "hidden_sizes": by_hand[1:]}
    narrow = build_network(hub(**config), 2, 5, generator("weights", 1)).eval()
    full = network.state_dict()
    narrow.load_state_dict({k: full[k][tuple(map(slice, v.shape))] for k, v in narrow.state_dict().items()})
    subspace = CompressibleSubspace.point(network, Width()).eval().at_level(level)
    images = torch.randn(2, 2, 37, 64)
    torch.testing.assert_close(subspace(images), narrow(images))
    torch.testing.assert_close(subspace.export(level).state_dict(), narrow.state_dict())


def test_of_a_transformer_the_inner_layers_of_perceptrons_alone_become_narrower(caplog):
    subspace, images = made("vit")
    assert not caplog.text
    subspace.check(images)
    assert "2 of 14 layers become narrower, as layer norms keep their channels; adaptive widths" in caplog.text
    plain = subspace.export(0.45).state_dict()
    full = subspace.export(1.0).state_dict()
    shapes = {name: (tuple(full[name].shape), tuple(plain[name].shape)) for name in full}
    changed = {name: both for name, both in shapes.items() if both[0] != both[1]}
    assert set(changed.values()) == {((27, 16), (12, 16)), ((27,), (12,)), ((16, 27), (16, 12))}
    assert len(changed) == 6


def test_an_export_can_be_traced():
    subspace, images = made("resnet8")
    plain = subspace.export(0.45)
    traced = torch.export.export(plain, (images,)).module()
    torch.testing.assert_close(traced(images), plain(images))


def test_an_export_needs_no_forward_pass_before_and_is_of_any_size():
    subspace, images = made("resnet8")
    plain = subspace.export(0.45)
    assert plain(images[..., :7, :]).shape == (2, 5)


def test_a_network_of_one_size_is_exported_after_it_was_checked(tmp_path):
    flat, images = CompressibleSubspace.point(Flat(), Width()), torch.randn(3, 1, 6, 6)
    with pytest.raises(ValueError, match="fails on an image of 1x64x64: .* call the subspace's check with images"):
        flat.export(0.5)
    expected = flat.at_level(0.5)(images)
    flat.check(images)
    assert flat.position.level == 0.5 and torch.equal(flat.export(0.5)(images), expected)
    own = CompressibleSubspace.point(OwnNetwork(Flat()), Width())
    own.check(images)
    own.save_level(tmp_path, 0.5)
    assert torch.equal(CompressibleSubspace.load_level(tmp_path, Flat())(images), own.at_level(0.5)(images))


@pytest.mark.slow
def test_narrower_is_faster():
    subspace, _ = made("vgg11")
    images = torch.randn(8, 2, 64, 64)
    networks = [subspace.export(level) for level in (1.0, 0.25)]
    seconds = [[], []]
    with torch.no_grad():
        for _ in range(7):
            for number, network in enumerate(networks):
                start = time.perf_counter()
                network(images)
                seconds[number].append(time.perf_counter() - start)
    assert min(seconds[0]) > 1.5 * min(seconds[1])


class Flat(nn.Module):
    """Flattened features: of each channel its positions, as a linear layer can be cut."""

    def __init__(self, order=(0, 1, 2, 3)) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 6, 3, padding=1)
        self.order = order
        self.head = nn.Linear(6 * 36, 3)

    def forward(self, images):
        return self.head(self.convolution(images).permute(self.order).flatten(1))


class Joined(nn.Module):
    """Concatenated channels, of which the second ones are first of nothing."""

    def __init__(self, side: int = 6, classes: int = 3) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 6, 1), nn.Conv2d(1, 6, 1)
        self.head = nn.Conv2d(12, classes, side)

    def forward(self, images):
        return self.head(torch.cat([self.left(images), self.right(images)], 1)).flatten(1)


class Twice(nn.Module):
    """One norm at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(1, 6, 1), nn.GroupNorm(1, 6)
        self.head = nn.Conv2d(6, 3, 6)

    def forward(self, images):
        return self.head(self.norm(self.norm(self.one(images)).repeat(1, 2, 1, 1)[:, :6])).flatten(1)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Flat((0, 2, 3, 1)), "head is not given the first of its channels where the network is narrower"),
        (Joined(), "head is not given the first of its channels"),
        (Twice(), "norm is given 2 channels at one place and 4 at another"),
    ],
    ids=["flattened positions", "concatenated", "used twice"],
)
def test_networks_whose_first_channels_are_others_are_refused(network, message):
    subspace = CompressibleSubspace.point(network, Width()).at_level(0.25)
    images = torch.linspace(-1, 1, 36).reshape(1, 1, 6, 6)
    assert subspace(images).shape == (1, 3)
    with pytest.raises(ValueError, match=message):
        subspace.check(images)


def test_channels_are_checked_by_their_values():
    subspace = CompressibleSubspace.point(Flat(), Width())
    subspace.check(torch.linspace(-1, 1, 36).reshape(1, 1, 6, 6))
    # The hooks are gone.
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subspace.modules())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Linear(3, 4), "of 1 layers 1 are kept"),
        (
            nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 2, 1)),
            "1 cannot be narrower: each of its groups=2 has several channels",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 8, 1), nn.GroupNorm(4, 8), nn.Conv2d(8, 2, 1)),
            "1 cannot be narrower: its 4 groups would not divide",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 8, 1), nn.TransformerEncoderLayer(8, 2, 16), nn.Linear(8, 2)),
            "1 reads the weights of its layers past their forward passes",
        ),
    ],
)
def test_what_cannot_be_narrower_is_refused_and_left_as_it_was(network, message):
    kinds = [type(module) for module in network.modules()]
    with pytest.raises(ValueError, match=message):
        CompressibleSubspace.point(network, Width())
    assert [type(module) for module in network.modules()] == kinds


class Fixed(nn.Module):
    """A reshape to a fixed number of features."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(1, 6, 1), nn.Linear(6 * 64, 10)

    def forward(self, images):
        return self.head(self.convolution(images).reshape(-1, 6 * 64))


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        (None, {"model.norm": "group"}, "subspace.compression='width': stem.1 cannot be narrower: its 2 groups would"),
        (Joined(8, 10), {}, "head is not given the first of its channels"),
        (Fixed(), {}, "the network fails on an image of 1x8x8: shape .* is invalid"),
    ],
    ids=["groups", "concatenated", "reshaped"],
)
def test_a_run_refuses_before_it_trains(network, settings, message):
    recipe = runs.recipe(
        **{
            "growth": {},
            "pruning": {},
            "sampler": {},
            "model.name": "resnet8",
            "subspace": {"kind": "point", "compression": "width"},
            **settings,
        }
    )
    with pytest.raises(RecipeError, match=message):
        make_task(recipe, Accelerator(cpu=True), network)


def test_layers_whose_weights_others_read_stay_whole():
    """The projection of an attention of torch."""

    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.norm, self.attention = (
                nn.Conv2d(1, 8, 2, 2),
                nn.LayerNorm(8),
                nn.MultiheadAttention(8, 2),
            )
            self.inner, self.outer, self.head = nn.Linear(8, 20), nn.Linear(20, 8), nn.Linear(8, 3)

        def forward(self, images):
            x = self.patches(images).flatten(2).permute(2, 0, 1)
            x = x + self.attention(*[self.norm(x)] * 3)[0]
            return self.head((x + self.outer(self.inner(x).relu())).mean(0))

    subspace, images = CompressibleSubspace.point(Attentive(), Width()).eval(), torch.randn(2, 1, 6, 6)
    plain = subspace.export(0.45)
    assert torch.equal(plain(images), subspace.at_level(0.45)(images))
    assert (plain.inner.out_features, plain.attention.out_proj.out_features) == (9, 8)
    assert not any(isinstance(module, Slim) for module in plain.modules())


def test_attention_stays():
    """Queries, keys and values in one, and heads that are mixed, as in CaiT."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.norm = nn.Conv2d(1, 8, 2), nn.LayerNorm(8)
            self.all, self.heads = nn.Linear(8, 24), nn.Linear(2, 2)
            self.joined, self.inner, self.outer = nn.Linear(8, 8), nn.Linear(8, 30), nn.Linear(30, 8)
            self.head = nn.Linear(8, 3)

    network = Block()
    CompressibleSubspace.point(network, Width())
    assert [name for name, module in network.named_modules() if isinstance(module, Slim) and not module.whole] == [
        "inner"
    ]


def test_which_layers_keep_their_outputs_can_be_said():
    network = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1))
    subspace = CompressibleSubspace.point(network, Width(), keep=("1", "2"))
    plain = subspace.export(0.25)
    assert [tuple(layer.weight.shape[:2]) for layer in plain] == [(2, 1), (8, 2), (2, 8)]
