# SPDX-License-Identifier: Apache-2.0
"""What is measured of a classifier: calibration, robustness, and what its training took."""

from vision_extras.metrics.embeddings import find_head
from vision_extras.metrics.evaluation import ImageEvaluation
from vision_extras.metrics.predictions import prediction_metrics, prediction_sums

__all__ = ["ImageEvaluation", "find_head", "prediction_metrics", "prediction_sums"]
