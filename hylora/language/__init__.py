# SPDX-License-Identifier: Apache-2.0
"""Language models as a task of the loop."""

from hylora.lazy import lazy_exports

__all__ = ["LanguageRecipe", "train"]

_EXPORTS = {"LanguageRecipe": "hylora.language.recipe", "train": "hylora.language.run"}
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
