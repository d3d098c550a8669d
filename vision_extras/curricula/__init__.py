# SPDX-License-Identifier: Apache-2.0
"""What changes in the course of training: resolution and batch size, and the network's width and depth."""

from vision_extras.curricula.growth import Growth, GrowthRecipe
from vision_extras.curricula.plan import Plan, SamplerRecipe

__all__ = ["Growth", "GrowthRecipe", "Plan", "SamplerRecipe"]
