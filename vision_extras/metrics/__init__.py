# SPDX-License-Identifier: Apache-2.0
"""What is measured of a classifier: calibration, robustness, and what its training took."""

from vision_extras.metrics.predictions import prediction_metrics, prediction_sums

__all__ = ["prediction_metrics", "prediction_sums"]
