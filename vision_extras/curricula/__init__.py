# SPDX-License-Identifier: Apache-2.0
"""What changes in the course of training: resolution and batch size, and the network's width and depth."""

from vision_extras.curricula.batch_sampler import Item, MultiscaleBatchSampler, MultiscaleDataset
from vision_extras.curricula.growth import Growth, GrowthRecipe
from vision_extras.curricula.plan import Plan, RankWindow, SamplerRecipe

__all__ = [
    "Growth",
    "GrowthRecipe",
    "Item",
    "MultiscaleBatchSampler",
    "MultiscaleDataset",
    "Plan",
    "RankWindow",
    "SamplerRecipe",
]
