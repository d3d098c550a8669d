# SPDX-License-Identifier: Apache-2.0
"""Language models as a task of the loop."""

from hylora.language.recipe import LanguageRecipe
from hylora.language.run import train

__all__ = ["LanguageRecipe", "train"]
