# SPDX-License-Identifier: Apache-2.0
"""Every architecture: it trains at several resolutions, is written and read back, and refuses what it cannot take."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForImageClassification

from tests.outcomes import assert_same
from tests.vision_extras.models.architectures import TINY, own
from vision_extras.models import (
    ModelRecipe,
    OwnNetwork,
    build_network,
    check_logits,
    check_sides,
    load_network,
    save_network,
)


def built(name, channels=3, classes=5, seed=0):
    return build_network(TINY[name][0], channels, classes, torch.Generator().manual_seed(seed))


def images_of(side, channels=3, count=4):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(side))


def sides_of(name):
    """The least, and one that is no power of two times it."""
    _, stride, multiple = TINY[name]
    return stride, multiple * math.ceil((1.5 * stride + 1) / multiple)


@pytest.mark.parametrize("name", TINY)
def test_it_trains_at_several_resolutions_and_is_read_back(name, tmp_path):
    network = built(name)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    before = {key: value.clone() for key, value in network.named_parameters()}
    for side in sides_of(name):
        loss = F.cross_entropy(network(images_of(side)), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert any(not torch.equal(before[key], value) for key, value in network.named_parameters())
    save_network(network, tmp_path)
    again = load_network(tmp_path)
    assert_same(again.state_dict(), network.state_dict())
    for side in sides_of(name):
        with torch.no_grad():
            expected, found = network.eval()(images_of(side)), again.eval()(images_of(side))
        assert expected.shape == (4, 5)
        # Not bit for bit: some kernels look at where in memory the weights are.
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_what_it_saw_before_changes_nothing(name):
    """Some networks would keep the windows of a smaller image."""
    least, other = sides_of(name)
    network = built(name).eval()
    with torch.no_grad():
        expected = network(images_of(other))
        network(images_of(least))
        assert torch.equal(network(images_of(other)), expected)


@pytest.mark.parametrize("name", TINY)
def test_its_weights_are_those_of_the_generator(name):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, two, other = (built(name, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(one, two)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", TINY)
def test_it_can_be_made_with_shapes_alone(name):
    shapes = build_network(TINY[name][0], 3, 5, None)
    assert all(value.is_meta for value in shapes.parameters())
    side = 2 * sides_of(name)[0]
    assert shapes(torch.empty(2, 3, side, side, device="meta")).shape == (2, 5)
    expected = {key: value.shape for key, value in built(name).state_dict().items()}
    assert {key: value.shape for key, value in shapes.state_dict().items()} == expected


@pytest.mark.parametrize("name", TINY)
def test_resolutions_that_it_cannot_take_are_refused(name):
    _, stride, multiple = TINY[name]
    network = built(name)
    large = 2 * stride
    check_sides(network, [(stride, stride), (large, stride)])
    check_logits(network, (large, stride), 3, 5)
    assert network.training
    with pytest.raises(ValueError, match=f"images of {large}x{stride - 1} pixels are below the network's stride"):
        check_sides(network, [(large, large), (large, stride - 1)])
    if multiple > 1:
        with pytest.raises(ValueError, match=f"must have sides that are multiples of {multiple}"):
            check_sides(network, [(large, large + 1)])


def test_networks_that_give_no_logits_are_refused():
    with pytest.raises(ValueError, match="the network fails on an image of 2x8x8"):
        check_logits(built("resnet8"), (8, 8), 2, 5)
    with pytest.raises(ValueError, match=r"gives \(1, 5\) for an image, and must give logits of shape \(1, 7\)"):
        check_logits(built("resnet8"), (8, 8), 3, 7)


@pytest.mark.parametrize("name", [name for name in TINY if TINY[name][0].name == "transformers"])
def test_transformers_reads_what_is_written(name, tmp_path):
    network = built(name).eval()
    state = {f"model.{key}": 2 * value for key, value in network.model.state_dict().items()}
    save_network(network, tmp_path, state)
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert_same(model.state_dict(), {key.removeprefix("model."): value for key, value in state.items()})
    assert model.config.model_type == TINY[name][0].config["model_type"]


@pytest.mark.parametrize(("classes", "kept"), [(5, True), (3, False)])
def test_a_pretrained_network_keeps_all_but_a_classifier_of_other_classes(classes, kept, tmp_path):
    pretrained = built("resnet")
    save_network(pretrained, tmp_path)
    recipe = ModelRecipe(name="transformers", path=str(tmp_path))
    network = build_network(recipe, 3, classes, torch.Generator().manual_seed(1))
    assert network.training and network.model.training
    expected = pretrained.state_dict()
    same = {key for key, value in network.state_dict().items() if torch.equal(value, expected[key])}
    heads = {key for key in expected if "classifier" in key}
    assert same == expected.keys() - (set() if kept else heads)
    assert network(images_of(32)).shape == (4, classes)
    assert all(value.is_meta for value in build_network(recipe, 3, classes, None).parameters())


def test_an_image_processor_is_handed_on(tmp_path):
    save_network(built("resnet"), tmp_path)
    processor = {"do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.25, 0.125]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    (tmp_path / "again").mkdir()
    save_network(load_network(tmp_path), tmp_path / "again")
    assert json.loads((tmp_path / "again" / "preprocessor_config.json").read_text()) == processor


def test_a_module_without_a_factory_is_read_into_another(tmp_path):
    network = OwnNetwork(own(3, 5, 4))
    save_network(network, tmp_path)
    with pytest.raises(ValueError, match="does not say how its network is made; pass it as network="):
        load_network(tmp_path)
    assert_same(load_network(tmp_path, own(3, 5, 4)).state_dict(), network.state_dict())


REFUSED = {
    "no such name": ({"name": "resnet21"}, r"name='resnet21' must be .*; the nearest is resnet"),
    "nothing to make": ({"name": "transformers"}, r"config=None and path=None must be given one and not the other"),
    "two things to make": (
        {"name": "transformers", "config": {"model_type": "vit"}, "path": "x"},
        "must be given one and not the other",
    ),
    "a width that is not read": (
        {"name": "transformers", "config": {"model_type": "vit"}, "width": 0.5},
        "width=0.5 must be left out; name='transformers' does not read it",
    ),
    "a depth that is not read": ({"name": "vgg11", "depth": 0.5}, "depth=0.5 must be left out; name='vgg11'"),
    "a config that is not read": ({"name": "resnet8", "config": {}}, "config={} must be left out"),
    "what images say": (
        {"name": "a:b", "config": {"classes": 3}},
        "config.classes=3 must be left out: the images",
    ),
    "no architecture": ({"name": "timm"}, "config=None must have an architecture of timm"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_recipes_that_name_no_network_are_refused(case):
    fields, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        ModelRecipe(**fields)


UNBUILDABLE = {
    "no such family": ({"model_type": "vitt"}, "config.model_type='vitt' must be an image classifier.*nearest is vit"),
    "no family": ({}, "config.model_type=None must be an image classifier"),
    "a misspelt entry": (
        {"model_type": "vit", "hidden_sise": 16},
        "config.hidden_sise=16 is unknown; the nearest is hidden_size",
    ),
    "a wrong type": ({"model_type": "vit", "hidden_size": "x"}, "is refused by transformers: .*hidden_size"),
    "a wrong shape": ({"model_type": "vit", "hidden_size": 16, "num_attention_heads": 0}, "gives no network"),
}


@pytest.mark.parametrize("case", UNBUILDABLE)
def test_networks_that_transformers_cannot_make_are_refused(case):
    config, message = UNBUILDABLE[case]
    with pytest.raises(ValueError, match=message):
        build_network(ModelRecipe(name="transformers", config=config), 3, 5, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package:make", "no_such_package cannot be imported"),
        ("json:make", "json has no function 'make'"),
        (":make", "name=':make':  cannot be imported"),
        ("builtins:dict", "must give a torch.nn.Module, not dict"),
    ],
)
def test_factories_that_give_no_network_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        build_network(ModelRecipe(name=name), 3, 5, torch.Generator())


def test_a_misspelt_argument_of_a_factory_is_refused():
    recipe = ModelRecipe(name=TINY["own"][0].name, config={"wdth": 4})
    with pytest.raises(ValueError, match="fails when called with channels, classes, wdth: .* argument 'wdth'"):
        build_network(recipe, 3, 5, None)


def test_a_path_without_a_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match="path=.* gives no image classifier"):
        build_network(ModelRecipe(name="transformers", path=str(tmp_path)), 3, 5, torch.Generator())


def test_timm_is_refused_where_it_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    recipe = ModelRecipe(name="timm", config={"architecture": "mobilenetv3_large_100"})
    with pytest.raises(ValueError, match="timm needs torchvision: install the build of it that belongs to your torch"):
        build_network(recipe, 3, 5, torch.Generator())
