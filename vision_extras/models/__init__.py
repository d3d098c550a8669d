# SPDX-License-Identifier: Apache-2.0
"""Networks for images."""

from vision_extras.models.build import ModelRecipe, build_network, load_network, save_network

__all__ = ["ModelRecipe", "build_network", "load_network", "save_network"]
