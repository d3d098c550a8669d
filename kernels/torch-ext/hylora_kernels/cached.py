# SPDX-License-Identifier: Apache-2.0
"""Tables on a device, kept between calls."""

from __future__ import annotations

from functools import lru_cache, wraps
from typing import Callable

import torch


def cached_tables(function: Callable) -> Callable:
    """Keep what the last 16 different calls of a function gave: tensors made from plain values.

    All layers of a model ask for the same, and each copy to a device waits for it. What was asked for while a CUDA
    graph was captured is kept for good: replays read it where it lies, and nobody says when the last one is over.
    """
    # Typed: a group of one token (1) is not the whole sequence (1.0).
    recent = lru_cache(maxsize=16, typed=True)(function)
    captured = {}

    @wraps(function)
    def call(*args):
        tables = recent(*args)
        if is_capturing():
            captured[id(tables)] = tables
        return tables

    return call


def is_capturing() -> bool:
    """Whether launches go into a CUDA graph instead of to the device."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
