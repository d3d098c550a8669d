# SPDX-License-Identifier: Apache-2.0
"""Text, chat and instruction data, as rows of tokens for training."""

from hylora.training.data.collate import collate
from hylora.training.data.recipe import DataRecipe, SourceRecipe

__all__ = ["DataRecipe", "SourceRecipe", "collate"]
