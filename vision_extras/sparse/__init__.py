# SPDX-License-Identifier: Apache-2.0
"""Training for sparse networks: in sparse and dense phases (AC/DC), or aware of a compression to come (CrAM)."""

from vision_extras.sparse.recipe import CramRecipe, OneShotRecipe, SparseRecipe

__all__ = ["CramRecipe", "OneShotRecipe", "SparseRecipe"]
