# SPDX-License-Identifier: Apache-2.0
"""How much two classifiers agree, against plain counts."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator

from vision_extras.images import Images, Resized
from vision_extras.metrics import ImageEvaluation
from vision_extras.metrics.agreement import agreement_metrics, agreement_sums

SPARSE, DENSE = (3 * torch.randn(23, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
LABELS = (torch.arange(23) % 5 - 1).where(torch.arange(23) % 5 > 0, -100)


def by_hand(kept):
    same, entropy = 0, 0.0
    for row in kept:
        sparse, dense = SPARSE[row].tolist(), DENSE[row].tolist()
        same += sparse.index(max(sparse)) == dense.index(max(dense))
        total, other = (sum(math.exp(value) for value in logits) for logits in (dense, sparse))
        entropy -= sum(math.exp(d) / total * math.log(math.exp(s) / other) for s, d in zip(sparse, dense, strict=True))
    return {"agreement": same / len(kept), "cross_entropy": entropy / len(kept)}


def test_it_is_a_plain_count_of_the_images_that_count():
    kept = [row for row in range(23) if LABELS[row] >= 0]
    assert len(kept) == 18
    found = agreement_metrics(*agreement_sums(SPARSE, DENSE, LABELS))
    assert found == pytest.approx(by_hand(kept)) and 0 < found["agreement"] < 1
    # The other way round is another number.
    assert agreement_metrics(*agreement_sums(DENSE, SPARSE, LABELS))["cross_entropy"] != found["cross_entropy"]


def test_with_itself_it_is_all_and_the_entropy():
    same = agreement_metrics(*agreement_sums(DENSE, DENSE, LABELS.abs()))
    entropy = torch.distributions.Categorical(logits=DENSE).entropy().mean()
    assert same == pytest.approx({"agreement": 1.0, "cross_entropy": float(entropy)})


def evaluation(classify, size=5):
    pixels = torch.arange(23, dtype=torch.uint8).view(23, 1, 1, 1)
    plain = Resized((0.0,), (1.0,))
    return ImageEvaluation(classify, Images(pixels, torch.arange(23)), plain, size, Accelerator())


def rows_of(images):
    """Which images these are, by their pixel."""
    return (images * 255).round().long().view(-1)


def test_images_are_evaluated_in_batches():
    found = evaluation(lambda images, labels: SPARSE[rows_of(images)]).agreement(
        lambda images, labels: DENSE[rows_of(images)], (1, 1)
    )
    assert found == pytest.approx(by_hand(range(23)))


def test_accuracy_by_several_labellings_is_a_plain_count():
    labellings = {"drawn": torch.arange(23) % 4, "true": SPARSE.argmax(1).index_fill(0, torch.tensor([2, 3, 11]), 7)}
    found = evaluation(lambda images, labels: SPARSE[rows_of(images)]).accuracy_by(labellings, (1, 1))
    told = SPARSE.argmax(1).tolist()
    assert found == {"drawn": sum(told[n] == n % 4 for n in range(23)) / 23, "true": 20 / 23}
