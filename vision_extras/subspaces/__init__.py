# SPDX-License-Identifier: Apache-2.0
"""Compressible subspaces: one training run, every level of compression (chapter 3)."""

from vision_extras.subspaces.bits import Bits
from vision_extras.subspaces.curriculum import Curriculum, Draw
from vision_extras.subspaces.deployment import Deployed
from vision_extras.subspaces.drift import batch_norm_drift, statistics_size
from vision_extras.subspaces.norms import replace_batch_norms
from vision_extras.subspaces.recipe import SubspaceRecipe
from vision_extras.subspaces.sparsity import Sparsity
from vision_extras.subspaces.subspace import CompressibleSubspace
from vision_extras.subspaces.training import SubspaceTraining
from vision_extras.subspaces.width import Width

__all__ = [
    "Bits",
    "CompressibleSubspace",
    "Curriculum",
    "Deployed",
    "Draw",
    "Sparsity",
    "SubspaceRecipe",
    "SubspaceTraining",
    "Width",
    "batch_norm_drift",
    "replace_batch_norms",
    "statistics_size",
]
