# SPDX-License-Identifier: Apache-2.0
"""Numbers that look random and depend on nothing but their keys."""

from __future__ import annotations

from typing import Union

import torch
from torch import Tensor

from .options import signed

Keys = Union[int, Tensor]


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's own copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _splitmix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64; int64 products wrap."""
    x = x + signed(0x9E3779B97F4A7C15)
    x = (x ^ _shift(x, 30)) * signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def hashed_scores(seed: int, head: Tensor, unit: Keys, block: Tensor) -> Tensor:
    """A non-negative int64 for each (seed, KV head, selection, block); the keys broadcast.

    The same keys give the same score on every device, whatever the length, batch or packing.
    """
    state = torch.full_like(block, signed(seed))
    for key in (head, unit, block):
        state = _splitmix(state + key)
    return _shift(_splitmix(state), 1)
