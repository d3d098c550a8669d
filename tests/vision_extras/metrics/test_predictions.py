# SPDX-License-Identifier: Apache-2.0
"""Metrics from sums are the whole set's, by their definitions, however images are shared out."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from accelerate import Accelerator
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from hylora.training.evaluation import deal, totals
from hylora.training.feed import Share
from vision_extras.images import IGNORED
from vision_extras.metrics import prediction_metrics, prediction_sums


def predictions(images: int = 523, classes: int = 10, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Logits and labels, with predictions that are right more often than by chance."""
    draw = torch.Generator().manual_seed(images)
    labels = torch.randint(classes, (images,), generator=draw)
    logits = scale * torch.randn(images, classes, generator=draw, dtype=torch.float64)
    logits[torch.arange(images), labels] += scale
    return logits, labels


def measured(logits: Tensor, labels: Tensor) -> dict[str, float]:
    return prediction_metrics(*prediction_sums(logits, labels))


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Image by image, as Guo et al. (2017) define it."""
    held: list[list[tuple[bool, float]]] = [[] for _ in range(bins)]
    for row, label in zip(logits.softmax(-1).tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        number = next(m for m in range(bins) if m / bins < confidence <= (m + 1) / bins)
        held[number].append((row.index(confidence) == label, confidence))
    gaps = [
        len(found) * abs(sum(right for right, _ in found) / len(found) - sum(c for _, c in found) / len(found))
        for found in held
        if found
    ]
    return sum(gaps) / len(labels)


def entropies(logits: Tensor) -> list[float]:
    return [-sum(p * math.log(p) for p in row if p) for row in logits.softmax(-1).tolist()]


@pytest.mark.parametrize("scale", [0.02, 0.5, 3.0, 30.0])
@pytest.mark.parametrize("classes", [2, 10, 37])
def test_metrics_are_as_defined(scale, classes):
    """From a network that knows nothing to one that is always sure."""
    logits, labels = predictions(523, classes, scale)
    found = measured(logits, labels)
    chosen = logits.softmax(-1)[torch.arange(len(labels)), labels]
    assert found["accuracy"] == (logits.argmax(-1) == labels).double().mean().item()
    assert found["loss"] == pytest.approx(-chosen.log().mean().item(), abs=1e-9)
    assert found["ece"] == pytest.approx(calibration_error(logits, labels), abs=1e-9)
    assert found["entropy_skewness"] == pytest.approx(scipy.stats.skew(entropies(logits)), abs=1e-9)


def test_calibration_error_is_that_of_torchmetrics():
    """Which sums in single precision."""
    logits, labels = predictions()
    theirs = multiclass_calibration_error(logits.softmax(-1), labels, num_classes=10, n_bins=15, norm="l1")
    assert measured(logits, labels)["ece"] == pytest.approx(theirs.item(), abs=1e-6)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 7, 250])
def test_metrics_do_not_depend_on_batches_and_processes(processes, size):
    """With rows that count for nothing in a batch, and batches of nothing else."""
    logits, labels = predictions(83)
    rows = list(zip(logits, labels.tolist(), strict=True))

    def batches(rank: int):
        for dealt in deal(rows, size, Share(rank, processes), lambda row: (row[0], IGNORED)):
            dealt = [*dealt, (rows[0][0], IGNORED)]
            yield {
                "logits": torch.stack([row for row, _ in dealt]),
                "labels": torch.tensor([label for _, label in dealt]),
            }

    accelerator = Accelerator(cpu=True)
    parts = [totals(prediction_sums, batches(rank), accelerator, lambda: None) for rank in range(processes)]
    found = prediction_metrics(*(sum(values) for values in zip(*parts, strict=True)))
    assert found == pytest.approx(measured(logits, labels), abs=1e-9)


def test_predictions_that_are_all_alike_have_no_skewness():
    assert measured(torch.zeros(5, 4), torch.arange(5) % 4)["entropy_skewness"] == 0.0
    one, label = predictions(1)
    assert measured(one, label)["entropy_skewness"] == 0.0
    assert measured(one.repeat(3, 1), label.repeat(3))["entropy_skewness"] == 0.0


def test_certain_predictions_are_in_the_last_bin():
    logits = torch.tensor([[1000.0, -math.inf], [1000.0, -math.inf]])
    found = measured(logits, torch.tensor([0, 1]))
    assert found["ece"] == 0.5 and math.isinf(found["loss"]) and found["entropy_skewness"] == 0.0


def test_low_precision_logits_are_measured_as_they_are():
    logits, labels = predictions()
    rounded = logits.bfloat16()
    assert measured(rounded, labels) == measured(rounded.double(), labels)
