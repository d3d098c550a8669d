# SPDX-License-Identifier: Apache-2.0
"""Training: typed recipes and the loop that runs them."""

from hylora.training.recipe import Recipe, RecipeError
from hylora.training.run import RunResult, train

__all__ = ["Recipe", "RecipeError", "RunResult", "train"]
