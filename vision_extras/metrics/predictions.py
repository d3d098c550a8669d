# SPDX-License-Identifier: Apache-2.0
"""What the predictions for some images say of a classifier, from sums that batches and processes can share out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vision_extras.images import IGNORED
from vision_extras.metrics.calibration import calibration_error, calibration_gaps
from vision_extras.metrics.entropy import entropy_powers, entropy_skewness

__all__ = ["prediction_metrics", "prediction_sums"]


def prediction_sums(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Sums over images, in float64 on the host, of which `prediction_metrics` makes metrics.

    Args:
        logits: [B, K].
        labels: [B], int64; images labelled -100 count for nothing.

    Returns:
        Images, their summed cross entropy, how many were told right, and the sums of `calibration_gaps` and
        `entropy_powers`.
    """
    logits, labels = logits.detach().cpu().double(), labels.cpu()
    logits, labels = logits[labels != IGNORED], labels[labels != IGNORED]
    probabilities = logits.softmax(dim=-1)
    return (
        torch.tensor(len(labels)),
        F.cross_entropy(logits, labels, reduction="sum"),
        (logits.argmax(dim=-1) == labels).sum(),
        calibration_gaps(probabilities, labels),
        entropy_powers(probabilities),
    )


def prediction_metrics(count: Tensor, loss: Tensor, right: Tensor, gaps: Tensor, powers: Tensor) -> dict[str, float]:
    """Metrics of all images, from the sums of `prediction_sums` over them.

    Returns:
        `loss` (mean cross entropy), `accuracy` (top-1), `ece` (expected calibration error) and `entropy_skewness`.
    """
    images = int(count)
    return {
        "loss": float(loss) / images,
        "accuracy": float(right) / images,
        "ece": calibration_error(gaps, images),
        "entropy_skewness": entropy_skewness(powers, images),
    }
