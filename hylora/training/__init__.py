# SPDX-License-Identifier: Apache-2.0
"""The loop: it trains any task as a typed recipe says."""

from hylora.training.recipe import Recipe, RecipeError

__all__ = ["Recipe", "RecipeError"]
