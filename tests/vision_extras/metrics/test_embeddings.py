# SPDX-License-Identifier: Apache-2.0
"""Views of images, embeddings of any network, and how far the ones move the others."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from hylora.training.feed import Share
from vision_extras.images import Images, Resized
from vision_extras.metrics import ImageEvaluation, evaluation
from vision_extras.metrics.embeddings import VIEWS, embedding_metrics, embedding_sums, find_head, penultimate, views_of

PLAIN = Resized((0.0,), (1.0,))


def test_views_are_zoomed_and_turned_about_the_centre():
    """On a slope, which interpolation does not change, and away from the border."""
    height, width = 24, 36
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) - (height - 1) / 2,
        torch.arange(width, dtype=torch.float64) - (width - 1) / 2,
        indexing="ij",
    )
    inside = (x.abs() < 10) & (y.abs() < 6)
    views = list(views_of(torch.stack([3 * x - 2 * y, x])[None]))
    assert torch.equal(views[0][0, 1], x) and len(views) == len(VIEWS)
    for view, (zoom, degrees) in zip(views, VIEWS, strict=True):
        angle = math.radians(degrees)
        there = (math.cos(angle) * x - math.sin(angle) * y) / zoom
        across = (math.sin(angle) * x + math.cos(angle) * y) / zoom
        expected = torch.stack([3 * there - 2 * across, there])
        torch.testing.assert_close(view[0][:, inside], expected[:, inside])


def network(classes: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5), nn.Linear(5, classes))


def test_embeddings_are_what_the_last_layer_is_given():
    model, images = network(), torch.rand(2, 1, 8, 8)
    with penultimate(model) as kept:
        model(images)
        model(images / 2)
    assert len(kept) == 2 and torch.equal(kept[1], model[:-1](images / 2))
    model(images)
    assert len(kept) == 2  # nothing is kept after the block


def test_embeddings_of_a_convolutional_classifier_are_means_over_positions():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.rand(2, 1, 8, 8)
    with penultimate(model) as kept:
        model(images)
    torch.testing.assert_close(kept[0], model[0](images).mean((-2, -1)))
    assert find_head(model) is model[1]


def test_a_network_without_a_classifier_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 3, 3))
    assert find_head(model) is None
    with pytest.raises(ValueError, match=r"Sequential.*nn\.Linear"), penultimate(model):
        pass


def test_metrics_are_as_defined():
    embeddings = torch.randn(len(VIEWS), 19, 7, dtype=torch.float64) + 100 * torch.randn(19, 7, dtype=torch.float64)
    found = embedding_metrics(*embedding_sums(embeddings))
    within = sum(embeddings[:, i, d].var(correction=0) for i in range(19) for d in range(7)) / (19 * 7)
    whole = sum(embeddings[..., d].var(correction=0) for d in range(7)) / 7
    assert found["embedding_variance"] == pytest.approx(float(within), abs=1e-9)
    assert found["embedding_variance_share"] == pytest.approx(float(within / whole), abs=1e-9)


def test_the_share_does_not_know_the_scale_of_embeddings():
    embeddings = torch.randn(len(VIEWS), 19, 7, dtype=torch.float64)
    once, thrice = (embedding_metrics(*embedding_sums(scale * embeddings)) for scale in (1, 3))
    assert thrice["embedding_variance_share"] == pytest.approx(once["embedding_variance_share"])
    assert thrice["embedding_variance"] == pytest.approx(9 * once["embedding_variance"])
    unmoved = embedding_metrics(*embedding_sums(embeddings[:1].expand_as(embeddings)))
    assert unmoved == pytest.approx({"embedding_variance": 0.0, "embedding_variance_share": 0.0}, abs=1e-12)
    nothing = embedding_metrics(*embedding_sums(torch.zeros(len(VIEWS), 2, 3)))
    assert nothing == {"embedding_variance": 0.0, "embedding_variance_share": 0.0}


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("size", [2, 50])
def test_evaluation_does_not_depend_on_batches_and_processes(processes, size, monkeypatch):
    """Each process sums its own part here, and the parts are added as they would be between processes."""
    model = network().double().eval()
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (13, 1, 8, 8), generator=draw, dtype=torch.uint8)
    images = Images(pixels, torch.randint(3, (13,), generator=draw))

    def evaluate(rank: int, size: int, processes: int) -> list[list[torch.Tensor]]:
        sums: list[list[torch.Tensor]] = []
        monkeypatch.setattr(evaluation, "share_of", lambda accelerator: Share(rank, processes))
        monkeypatch.setattr(evaluation, "embedding_metrics", lambda *values: sums.append(values) or {})
        monkeypatch.setattr(evaluation, "prediction_metrics", lambda *values: sums.append(values) or {"accuracy": 0})
        found = ImageEvaluation(lambda x, labels: model(x.double()), images, PLAIN, size, Accelerator(cpu=True))
        found.embeddings(model, (8, 8))
        assert found.accuracies([8]) == {"8": 0}
        return sums

    whole = evaluate(0, len(images), 1)
    parts = [evaluate(rank, size, processes) for rank in range(processes)]
    for number, values in enumerate(whole):
        summed = [sum(shares) for shares in zip(*(part[number] for part in parts), strict=True)]
        torch.testing.assert_close(summed, list(values), rtol=0, atol=1e-9)


def test_embeddings_are_of_the_views():
    model = network().double().eval()
    images = Images(torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1, 2]))
    evaluated = ImageEvaluation(lambda x, labels: model(x.double()), images, PLAIN, 4, Accelerator(cpu=True))
    with torch.no_grad():
        embeddings = torch.stack([model[:-1](view.double()) for view in views_of(images.pixels / 255)])
    assert evaluated.embeddings(model, (8, 8)) == pytest.approx(embedding_metrics(*embedding_sums(embeddings)))


def test_accuracies_are_of_images_of_each_side():
    """A network that knows a class by the images' side."""

    def by_side(images, labels):
        return torch.eye(2)[[int(images.shape[-1] > 8)] * len(images)]

    images = Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 0, 1]))
    evaluated = ImageEvaluation(by_side, images, PLAIN, 3, Accelerator(cpu=True))
    assert evaluated.accuracies((6, 8, 12)) == {"6": 0.75, "8": 0.75, "12": 0.25}
