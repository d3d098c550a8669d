# SPDX-License-Identifier: Apache-2.0
"""Vision models on the same loop as the language models.

What a run schedules (resolution, batch size, depth, sparsity) is a pure function of training progress, so that a
resumed run and every process agree on it by construction.
"""

from importlib import import_module
from typing import Any

__all__ = ["ImageRecipe", "load_network", "train"]

# The command line names this package in its help, and must not wait for the training stack.
_PLACES = {
    "ImageRecipe": "vision_extras.recipe",
    "load_network": "vision_extras.models",
    "train": "vision_extras.run",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
