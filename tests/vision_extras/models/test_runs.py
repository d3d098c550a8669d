# SPDX-License-Identifier: Apache-2.0
"""Runs with networks that are not this package's own, at several resolutions."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from hylora.training.recipe import RecipeError
from tests.vision_extras.models.architectures import TINY, own
from vision_extras import run
from vision_extras.models import build_network, load_network, save_network
from vision_extras.recipe import ImageRecipe

SAMPLER = {"name": "msc_vbs", "side": 16, "smallest": 8, "largest": 16, "scales": 2, "multiple": 8}
VIT = {"model_type": "vit", "image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1}
VIT |= {"num_attention_heads": 2, "intermediate_size": 32}


def recipe(path, model, **sections):
    tree = {
        "task": "images",
        "images": {"name": "digits"},
        "model": model,
        "sampler": SAMPLER,
        "training": {"epochs": 1, "global_batch_size": 256, "batch_size": 256, "mixed_precision": "float32"},
        "evaluation": {"batch_size": 500},
        "tracking": {"progress": False},
        "output": {"path": str(path), "checkpoint_every": 0},
        **sections,
    }
    return ImageRecipe.from_tree(tree)


def logits_of(network, side=16):
    images = torch.rand(3, 1, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network.eval()(images)


def test_a_network_of_transformers_trains_at_several_resolutions(tmp_path):
    result = run.train(recipe(tmp_path, {"name": "transformers", "config": VIT}))
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {record["height"] for record in records if "height" in record} == {8, 16}
    assert result.evaluation["loss"] < 2.5
    assert logits_of(load_network(tmp_path)).shape == (3, 10)


def test_a_module_and_a_loss_of_ones_own_are_trained(tmp_path):
    network, seen = own(1, 10, 4), []

    def loss(logits, labels):
        seen.append((logits.shape, labels.shape, int(labels.min())))
        return F.multi_margin_loss(logits, labels, reduction="none")

    before = [parameter.clone() for parameter in network.parameters()]
    result = run.train(recipe(tmp_path, {}), network=network, loss=loss)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert records[0]["loss"] == pytest.approx(0.9, abs=0.1)  # of a margin of 1 to nine classes of ten
    assert len(seen) == result.steps and all(least >= 0 for *_, least in seen)
    assert any(not torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))
    assert torch.equal(logits_of(load_network(tmp_path, own(1, 10, 4))), logits_of(network))


def test_a_factory_in_a_recipe_is_trained_and_read_back(tmp_path):
    run.train(recipe(tmp_path, {"name": TINY["own"][0].name, "config": {"width": 4}}))
    assert logits_of(load_network(tmp_path)).shape == (3, 10)


def test_a_pretrained_network_is_given_what_it_learned_from(tmp_path):
    save_network(build_network(TINY["vit"][0], 3, 5, torch.Generator()), tmp_path)
    processor = {"do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.25, 0.125]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    model = {"name": "transformers", "path": str(tmp_path)}
    images = recipe("unused", model).images
    assert (images.channels, images.mean, images.std) == (3, (0.1, 0.2, 0.3), (0.5, 0.25, 0.125))
    mean = [0.0, 0.0, 0.0]
    assert recipe("unused", model, images={"name": "digits", "mean": mean}).images.mean == tuple(mean)
    result = run.train(recipe(tmp_path / "run", model))
    assert result.steps and load_network(result.folder).model.config.num_labels == 10
    with pytest.raises(RecipeError, match="model.path='nowhere/at/all' gives no network"):
        recipe("unused", {"name": "transformers", "path": "nowhere/at/all"})


REFUSED = {
    "a resolution below the stride": (
        {"model": {"name": "vgg11"}},
        "sampler: images of 8x8 pixels are below the network's stride, 32; use larger ones",
    ),
    "a resolution between patches": (
        {"model": {"name": "transformers", "config": {**VIT, "patch_size": 16}}, "sampler": {"side": 24}},
        "sampler: images of 24x24 pixels must have sides that are multiples of 16",
    ),
    "a resolution to evaluate at": (
        {"evaluation": {"sides": [8, 2]}},
        "evaluation.sides: images of 2x2 pixels are below the network's stride, 4",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_resolutions_are_refused_before_images_are_read(case, tmp_path, monkeypatch):
    sections, message = REFUSED[case]
    monkeypatch.setattr(run, "load_split", lambda images: pytest.fail("images were read"))
    with pytest.raises(RecipeError, match=message):
        run.train(recipe(tmp_path, **{"model": {}, **sections}))


def test_smoothing_that_a_loss_of_ones_own_would_not_see_is_refused(tmp_path):
    smoothed = recipe(tmp_path, {}, augment={"label_smoothing": 0.1})
    with pytest.raises(RecipeError, match="augment.label_smoothing=0.1 is for cross entropy"):
        run.train(smoothed, network=own(1, 10, 4), loss=lambda logits, labels: logits.sum(1))


def test_a_module_that_gives_no_logits_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"gives \(1, 9\) for an image, and must give logits of shape \(1, 10\)"):
        run.train(recipe(tmp_path, {}), network=own(1, 9, 4))
    with pytest.raises(RecipeError, match="sampler: images of 5x5 pixels must have sides that are multiples of 2"):
        run.train(recipe(tmp_path, {}, sampler={"side": 5}), network=own(1, 10, 4))
