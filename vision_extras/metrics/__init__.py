# SPDX-License-Identifier: Apache-2.0
"""What is measured of a classifier: calibration, robustness, and what its training took."""
