# SPDX-License-Identifier: Apache-2.0
"""Mixup, cutmix and erasing against plain sums, and labels that are shares."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hylora.randomness import generator
from vision_extras.images import IGNORED
from vision_extras.images.erasing import erase
from vision_extras.images.mixing import mixed
from vision_extras.task import Classification


def draws(count, start=0):
    return [generator("row", 0, position) for position in range(start, start + count)]


def batch(count=9, shape=(10, 14)):
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, *shape, generator=draw)
    return images, F.one_hot(torch.arange(count), count).float()


def test_mixup_blends_images_and_labels_by_the_same_share():
    images, labels = batch()
    found, shares = mixed(images, labels, draws(9), mixup=0.8, cutmix=0.0)
    for row in range(9):
        share = float(shares[row, row])
        torch.testing.assert_close(found[row], share * images[row] + (1 - share) * images[row - 1])
        torch.testing.assert_close(shares[row], share * labels[row] + (1 - share) * labels[row - 1])
    assert len(set(shares.diagonal().tolist())) == 9


@pytest.mark.parametrize("shape", [(10, 14), (7, 5), (1, 1)])
def test_a_pasted_rectangles_area_is_the_labels_share(shape):
    images, labels = batch(40, shape)
    found, shares = mixed(images, labels, draws(40), mixup=0.0, cutmix=1.0)
    for row in range(40):
        own, other = ((found[row] == images[of]).all(0) for of in (row, row - 1))
        assert torch.equal(own, ~other)
        assert float(own.float().mean()) == pytest.approx(float(shares[row, row]), abs=1e-6)
        rows, columns = other.nonzero(as_tuple=True)
        if len(rows):
            assert other[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    torch.testing.assert_close(shares.sum(1), torch.ones(40))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_drawn_from_a_beta_distribution(alpha):
    images, labels = batch(800, (1, 1))
    shares = mixed(images, labels, draws(800), mixup=alpha, cutmix=0.0)[1].diagonal()
    expected = torch.distributions.Beta(alpha, alpha)
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(shares.var()) == pytest.approx(float(expected.variance), rel=0.12)


def test_with_both_each_image_gets_one_of_them():
    images, labels = batch(200)
    found, shares = mixed(images, labels, draws(200), mixup=1.0, cutmix=1.0)
    pasted = [bool(((found[n] == images[n]) | (found[n] == images[n - 1])).all()) for n in range(200)]
    assert 70 < sum(pasted) < 130
    for row in range(200):
        if not pasted[row]:
            share = shares[row, row]
            torch.testing.assert_close(found[row], share * images[row] + (1 - share) * images[row - 1])


def test_what_is_drawn_for_an_image_does_not_depend_on_the_batch():
    images, labels = batch(6)
    shares = mixed(images, labels, draws(6), mixup=0.4, cutmix=1.0)[1].diagonal()
    for first in (0, 2, 4):
        pair = slice(first, first + 2)
        apart = mixed(images[pair], labels[pair], draws(2, first), 0.4, 1.0)[1]
        assert torch.equal(apart[:, pair].diagonal(), shares[pair])


def test_a_rectangle_is_erased():
    counts = []
    for draw in draws(300):
        image = torch.ones(2, 20, 30)
        erase(image, 0.6, draw)
        gone = (image == 0).all(0)
        assert torch.equal(gone, (image == 0).any(0))
        rows, columns = gone.nonzero(as_tuple=True)
        if len(rows):
            assert gone[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
            counts.append(float(gone.float().mean()))
    assert len(counts) / 300 == pytest.approx(0.6, abs=0.08)
    assert min(counts) > 0.01 and max(counts) < 0.36 and max(counts) > 0.25


# The loss


class _Logits(nn.Module):
    def forward(self, images):
        return images.flatten(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_takes_labels_and_shares(smoothing):
    """Minus the sum of shares times log-probabilities, with a part of every label spread over all classes."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 1, 1, 5, generator=draw)
    labels = torch.tensor([0, 3, 4, 1, 1, 2])
    shares = torch.rand(6, 5, generator=draw)
    shares /= shares.sum(1, keepdim=True)
    model = Classification(_Logits(), label_smoothing=smoothing).train()

    def plain(targets):
        targets = (1 - smoothing) * targets + smoothing / 5
        return -(targets * logits.flatten(1).log_softmax(1)).sum()

    for given, targets in ((labels, F.one_hot(labels, 5).float()), (shares, shares)):
        loss, count = model(logits, given)
        torch.testing.assert_close(loss, plain(targets))
        assert int(count) == 6
    labels[2] = IGNORED
    loss, count = model(logits, labels)
    targets = F.one_hot(labels.clamp(min=0), 5).float()
    kept = labels != IGNORED
    smoothed = (1 - smoothing) * targets + smoothing / 5
    expected = -(smoothed * logits.flatten(1).log_softmax(1)).sum(1)[kept].sum()
    torch.testing.assert_close(loss, expected)
    assert int(count) == 5
    model.eval()
    assert torch.equal(model(logits, labels), logits.flatten(1))
