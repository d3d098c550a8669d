# SPDX-License-Identifier: Apache-2.0
"""Text, chat and instruction data, as rows of tokens for training."""

from hylora.lazy import lazy_exports

__all__ = [
    "DataRecipe",
    "Padding",
    "SourceRecipe",
    "TokenData",
    "TokenStream",
    "build_datasets",
    "check_packing",
]

_EXPORTS = {
    "DataRecipe": "hylora.language.data.recipe",
    "Padding": "hylora.language.data.packing",
    "SourceRecipe": "hylora.language.data.recipe",
    "TokenData": "hylora.language.data.build",
    "TokenStream": "hylora.language.data.stream",
    "build_datasets": "hylora.language.data.build",
    "check_packing": "hylora.language.data.packing",
}
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
