# SPDX-License-Identifier: Apache-2.0
"""What changes in the course of training: what batches are, and how many rows they have; width and depth."""

from vision_extras.curricula.batch_sampler import Item, MultiscaleBatchSampler, MultiscaleDataset
from vision_extras.curricula.growth import Growth, GrowthRecipe
from vision_extras.curricula.plan import Plan, RankWindow, Sampler, SamplerRecipe

__all__ = [
    "Growth",
    "GrowthRecipe",
    "Item",
    "MultiscaleBatchSampler",
    "MultiscaleDataset",
    "Plan",
    "RankWindow",
    "Sampler",
    "SamplerRecipe",
]
