# SPDX-License-Identifier: Apache-2.0
"""Networks for images."""

from vision_extras.models.build import ModelRecipe, build_network, load_network, save_network
from vision_extras.models.hub import learned_images
from vision_extras.models.own import OwnNetwork
from vision_extras.models.sides import check_logits, check_sides

__all__ = [
    "ModelRecipe",
    "OwnNetwork",
    "build_network",
    "check_logits",
    "check_sides",
    "learned_images",
    "load_network",
    "save_network",
]
