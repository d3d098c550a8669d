# SPDX-License-Identifier: Apache-2.0
"""Text, chat and instruction data, as rows of tokens for training."""

from hylora.language.data.build import TokenData, build_datasets
from hylora.language.data.packing import Padding, check_packing
from hylora.language.data.recipe import DataRecipe, SourceRecipe
from hylora.language.data.stream import TokenStream

__all__ = [
    "DataRecipe",
    "Padding",
    "SourceRecipe",
    "TokenData",
    "TokenStream",
    "build_datasets",
    "check_packing",
]
