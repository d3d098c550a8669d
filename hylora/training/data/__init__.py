# SPDX-License-Identifier: Apache-2.0
"""Text, chat and instruction data, as rows of tokens for training."""

from hylora.training.data.build import TokenData, build_datasets
from hylora.training.data.collate import collate
from hylora.training.data.packing import check_packing
from hylora.training.data.recipe import DataRecipe, SourceRecipe
from hylora.training.data.stream import TokenStream

__all__ = [
    "DataRecipe",
    "SourceRecipe",
    "TokenData",
    "TokenStream",
    "build_datasets",
    "check_packing",
    "collate",
]
