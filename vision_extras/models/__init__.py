# SPDX-License-Identifier: Apache-2.0
"""Networks for images."""

from vision_extras.models.residual import STRIDE, NetworkConfig, ResidualNetwork

__all__ = ["STRIDE", "NetworkConfig", "ResidualNetwork"]
