# SPDX-License-Identifier: Apache-2.0
"""Runs that begin with what another run left."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F

from hylora.training.recipe import RecipeError
from tests.vision_extras.models.architectures import TINY
from vision_extras import run
from vision_extras.images import load_split
from vision_extras.masks import gone, prunable
from vision_extras.metrics.flops import inference_flops, on_meta
from vision_extras.models import ModelRecipe, build_network, load_network, save_network
from vision_extras.recipe import ImageRecipe
from vision_extras.transfer.frozen import cached_features
from vision_extras.transfer.products import SparseProducts

LOOP = {"epochs": 3, "global_batch_size": 64, "batch_size": 64, "mixed_precision": "float32"}


def recipe(path, **sections):
    tree = {
        "task": "images",
        "images": {"name": "digits", "held_out": 0.8},
        "model": {"name": "resnet8", "width": 0.5},
        "training": LOOP,
        "evaluation": {"batch_size": 500},
        "tracking": {"progress": False},
        "output": {"path": str(path), "checkpoint_every": 0},
        **sections,
    }
    return ImageRecipe.from_tree(tree)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """A run on digits 0 to 5, nine of ten of whose weights are taken away when it is finished."""
    folder = tmp_path_factory.mktemp("upstream")
    images = {"name": "digits", "held_out": 0.8, "classes": list("012345"), "mean": [0.25], "std": [0.5]}
    run.train(recipe(folder, images=images, training={**LOOP, "epochs": 1}))
    network = load_network(folder)
    weights = prunable(network)
    with torch.no_grad():
        for name, away in gone({name: weight.abs() for name, weight in weights.items()}, 0.9).items():
            weights[name].masked_fill_(away, 0.0)
    save_network(network, folder)
    return folder


def begun(path, upstream, train="head", **sections):
    return recipe(path, **{"model": {"name": "run", "path": str(upstream), "train": train}, **sections})


def backbone(folder):
    return {name: value for name, value in load_network(folder).state_dict().items() if not name.startswith("head")}


def test_the_classifier_is_new_and_dense_and_all_else_is_taken_over(upstream):
    before = load_network(upstream)
    network = build_network(ModelRecipe(name="run", path=str(upstream)), 1, 7, torch.Generator().manual_seed(3))
    assert network.head.weight.shape == (7, before.head.in_features) and (network.head.weight != 0).all()
    bound = 1 / math.sqrt(before.head.in_features)
    for drawn in (network.head.weight, network.head.bias):
        assert drawn.abs().max() <= bound
    assert float(network.head.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)
    for name, value in backbone(upstream).items():
        assert torch.equal(network.state_dict()[name], value), name
    assert network.config.classes == 7
    again = build_network(ModelRecipe(name="run", path=str(upstream)), 1, 7, torch.Generator().manual_seed(4))
    assert not torch.equal(network.head.weight, again.head.weight)


@pytest.mark.parametrize("name", ["vgg11", "own", "cpreresnet20"])
def test_other_networks_are_taken_over(name, tmp_path):
    model = TINY[name][0]
    trained = build_network(model, 1, 4, torch.Generator())
    save_network(trained, tmp_path)
    recipe(tmp_path).save(tmp_path / "recipe.yaml")
    network = build_network(ModelRecipe(name="run", path=str(tmp_path)), 1, 3, torch.Generator())
    images = torch.rand(2, 1, 32, 32)
    assert network.eval()(images).shape == (2, 3)
    same = [torch.equal(*pair) for pair in zip(trained.parameters(), network.parameters(), strict=True)
            if pair[0].shape == pair[1].shape]  # fmt: skip
    assert all(same) and len(same) >= len(list(trained.parameters())) - 2


@pytest.fixture(scope="module")
def linear(upstream, tmp_path_factory):
    folder = tmp_path_factory.mktemp("linear")
    return folder, run.train(begun(folder, upstream))


def test_linear_finetuning_leaves_all_but_the_classifier_bit_for_bit(upstream, linear):
    folder, result = linear
    before, after = backbone(upstream), load_network(folder)
    assert sum("running" in name for name in before) > 4
    for name, value in before.items():
        assert torch.equal(after.state_dict()[name], value), name
    assert after.head.out_features == 10
    # What a plain load of the saved network says of the held-out images is what was measured on cached features.
    split = load_split(begun("unused", upstream).images)
    assert split.plain.mean == (0.25,) and split.plain.std == (0.5,)
    batch = split.plain([*split.held_out], [None] * len(split.held_out), (8, 8))
    with torch.no_grad():
        losses = F.cross_entropy(after.eval()(batch["images"]), batch["labels"])
    assert float(losses) == pytest.approx(result.evaluation["loss"], rel=1e-4)


def test_cached_features_train_as_those_of_each_batch(upstream, linear, tmp_path, monkeypatch):
    cached = load_network(linear[0]).head.weight
    monkeypatch.setattr(run, "stays_the_same", lambda recipe: False)
    run.train(begun(tmp_path, upstream))
    assert torch.allclose(load_network(tmp_path).head.weight, cached, atol=1e-5)
    fresh = build_network(ModelRecipe(name="run", path=str(upstream)), 1, 10, torch.Generator())
    assert not torch.allclose(fresh.head.weight, cached, atol=1e-2)


def test_what_changes_images_is_trained_online(upstream, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "cached_features", lambda *arguments: pytest.fail("features were cached"))
    shifted = begun(tmp_path, upstream, augment={"shift": 1}, training={**LOOP, "epochs": 1})
    assert SparseProducts(load_network(upstream)).convolutions
    run.train(shifted)
    products = load_network(tmp_path).head.weight
    monkeypatch.setattr(run, "SparseProducts", lambda network: SparseProducts(network, least=2))
    run.train(begun(tmp_path / "plain", upstream, augment={"shift": 1}, training={**LOOP, "epochs": 1}))
    assert torch.allclose(load_network(tmp_path / "plain").head.weight, products, atol=1e-5)
    for name, value in backbone(upstream).items():
        assert torch.equal(load_network(tmp_path).state_dict()[name], value), name


def test_a_network_that_its_classifier_does_not_end_is_not_cached(upstream):
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = load_network(upstream)

        def forward(self, images):
            return 2 * self.network(images)

    settings = begun("unused", upstream)
    split = load_split(settings.images)
    assert cached_features(Scaled().network, split, settings).train.values.shape == (len(split.train), 32)
    assert cached_features(Scaled(), split, settings) is None


def test_operations_of_linear_finetuning_are_those_that_are_done(upstream, linear, tmp_path, monkeypatch):
    network = on_meta(load_network(linear[0])).eval()
    once, head = inference_flops(network, (1, 8, 8)), 4 * network.head.weight.numel()
    results = json.loads((linear[0] / "results.json").read_text())
    images = results["images_seen"] // LOOP["epochs"]
    assert results["flops"] == images * (once + LOOP["epochs"] * head)
    monkeypatch.setattr(run, "stays_the_same", lambda recipe: False)
    run.train(begun(tmp_path, upstream, training={**LOOP, "epochs": 1}))
    assert json.loads((tmp_path / "results.json").read_text())["flops"] == images * (once + head // 2)


def test_full_finetuning_keeps_zeros_and_moves_all_else(upstream, tmp_path):
    settings = begun(tmp_path, upstream, "all", sparse={"schedule": "fixed"}, optimizer={"weight_decay": 0.01})
    run.train(settings)
    before, after = load_network(upstream), dict(load_network(tmp_path).named_parameters())
    for name, weight in prunable(before).items():
        if not name.startswith("head"):
            assert torch.equal(after[name] == 0, weight == 0), name
            assert not torch.equal(after[name], weight)
    assert (after["head.weight"] != 0).all()


@pytest.mark.parametrize("sections", [{"train": "head"}, {"train": "all", "sparse": {"schedule": "fixed"}}])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(sections, upstream, linear, tmp_path):
    output = {"path": str(tmp_path), "checkpoint_every": 10, "keep_checkpoints": 9}
    run.train(begun(tmp_path, upstream, output=output, **sections))
    whole = load_network(tmp_path).state_dict()
    for file in (tmp_path / "checkpoints").glob("step-*"):
        if file.name != "step-000010":
            for part in file.iterdir():
                part.unlink()
            file.rmdir()
    for name in ("config.json", "model.safetensors", "results.json"):
        (tmp_path / name).unlink()
    run.train(begun(tmp_path, upstream, output=output, **{**sections, "training": {**LOOP, "resume": True}}))
    for name, value in load_network(tmp_path).state_dict().items():
        assert torch.equal(value, whole[name]), name


REFUSED = {
    "a path that is no run": ({"name": "run", "path": "nowhere"}, {}, "model.path='nowhere' is no folder of a finish"),
    "a path without a recipe": ({"name": "run", "path": "."}, {}, "there is no recipe.yaml in it"),
    "another network's name": (
        {"name": "resnet20"},
        {},
        "name='resnet20' is a network with random weights, and path=",
    ),
    "a width of its own": ({"width": 2.0}, {}, "width=2.0 must be left out; name='run' does not read it"),
    "other channels": (
        {},
        {"images": {"name": "pictures", "channels": 3}},
        "images.channels=3 is not what the network",
    ),
    "the hub's name": ({"name": "transformers"}, {}, "gives no network"),
    "pruning what is frozen": (
        {"train": "head"},
        {"pruning": {"sparsity": 0.5, "at": 1}},
        "model.train='head' and pruning.sparsity=0.5 cannot be had together",
    ),
    "growth": ({}, {"growth": {"width": 0.5}}, "need a network that can grow, which model.name='run' cannot"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_over_is_refused(case, upstream):
    model, sections, message = REFUSED[case]
    with pytest.raises(RecipeError, match=message):
        recipe("unused", **{"model": {"name": "run", "path": str(upstream), **model}, **sections})


def test_a_frozen_network_needs_one_that_is_trained():
    with pytest.raises(RecipeError, match="path=None must name a trained network, which train='head' begins with"):
        recipe("unused", model={"name": "resnet8", "train": "head"})


def test_networks_of_other_kinds_are_refused(upstream, tmp_path):
    recipe(tmp_path).save(tmp_path / "recipe.yaml")
    for kind, remedy in (("vit", "set model.name=transformers"), ("hylora_subspace", "write one of its levels")):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(ValueError, match=f"holds a network of type '{kind}', which is not taken over; {remedy}"):
            build_network(ModelRecipe(name="run", path=str(tmp_path)), 1, 3, torch.Generator())


def test_classes_are_chosen_by_name_and_counted_anew(upstream):
    whole, some = (load_split(recipe("unused", images={"name": "digits", **extra}).images)
                   for extra in ({}, {"classes": ["7", "2"]}))  # fmt: skip
    assert some.classes == ("7", "2")
    for part, of in ((some.train, whole.train), (some.held_out, whole.held_out)):
        assert int((part.labels == 0).sum()) == int((of.labels == 7).sum())
        assert torch.equal(part.pixels[part.labels == 1], of.pixels[of.labels == 2])
    for classes, message in ((["7", "x"], "classes has 'x', which is none there"), (["7", "7"], "each of them once")):
        with pytest.raises(ValueError, match=message):
            load_split(recipe("unused", images={"name": "digits", "classes": classes}).images)
