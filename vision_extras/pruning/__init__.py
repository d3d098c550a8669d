# SPDX-License-Identifier: Apache-2.0
"""Weights that are taken away, and stay away."""

from vision_extras.pruning.masks import Masks

__all__ = ["Masks"]
