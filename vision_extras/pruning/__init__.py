# SPDX-License-Identifier: Apache-2.0
"""When to prune and what: masks that hold through training, and the signals that say when (chapter 2)."""

from vision_extras.pruning.recipe import PruningRecipe, SignalsRecipe
from vision_extras.pruning.signals import FisherTrace, KLUniform, Signal
from vision_extras.pruning.timing import Pruning

__all__ = [
    "FisherTrace",
    "KLUniform",
    "Pruning",
    "PruningRecipe",
    "Signal",
    "SignalsRecipe",
]
