# SPDX-License-Identifier: Apache-2.0
"""Average precision against a plain reference and against scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch

from vision_extras.sounds.metrics import average_precision, mean_average_precision, top1


def drawn(count=60, classes=5, levels=None, seed=0):
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, classes, generator=draw)
    if levels:
        scores = (scores * levels).round() / levels
    return scores, torch.rand(count, classes, generator=draw) < 0.3


def reference(scores, truth):
    """Of one class: for each score that occurs the recall gained there, by the precision of all at least as high."""
    found, before, positives = 0.0, 0.0, sum(truth)
    for level in sorted(set(scores), reverse=True):
        chosen = [right for score, right in zip(scores, truth, strict=True) if score >= level]
        recall = sum(chosen) / positives
        found += (recall - before) * sum(chosen) / len(chosen)
        before = recall
    return found


@pytest.mark.parametrize("levels", [None, 2], ids=["distinct", "with ties"])
def test_average_precision_is_the_references(levels):
    from sklearn.metrics import average_precision_score

    scores, truth = drawn(levels=levels)
    found = average_precision(scores, truth)
    for number in range(5):
        one, there = scores[:, number].tolist(), truth[:, number].tolist()
        assert float(found[number]) == pytest.approx(reference(one, there), abs=1e-12)
        assert float(found[number]) == pytest.approx(average_precision_score(there, one), abs=1e-12)
    assert mean_average_precision(scores, truth) == pytest.approx(
        average_precision_score(truth.numpy(), scores.numpy(), average="macro"), abs=1e-12
    )


def test_the_order_of_clips_is_nothing_to_it():
    scores, truth = drawn(levels=1)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    found, expected = average_precision(scores[order], truth[order]), average_precision(scores, truth)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_class_that_no_clip_has_counts_for_nothing():
    scores, truth = drawn(classes=3)
    truth[:, 1] = False
    found = average_precision(scores, truth)
    assert found.isnan().tolist() == [False, True, False]
    assert mean_average_precision(scores, truth) == pytest.approx(float(found[[0, 2]].mean()), abs=1e-12)
    assert math.isnan(mean_average_precision(scores[:, 1:2], truth[:, 1:2]))


def test_top1_takes_any_of_a_clips_labels():
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.5, 0.4, 0.3], [0.0, 0.1, 0.2], [1.0, 0.0, 0.0]])
    truth = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0]]).bool()
    assert top1(scores, truth) == 0.75
