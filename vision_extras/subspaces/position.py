# SPDX-License-Identifier: Apache-2.0
"""Where on its subspace a network stands."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Position"]


@dataclass
class Position:
    """Shared by all parts of a subspace, which look at it in each forward pass.

    Args:
        alpha: the point of the line, in [0, 1]; 1 is the accurate end.
        level: how much is compressed, in the unit of the compression.
        activations: whether what layers are given is quantised too, where weights are.
    """

    alpha: float
    level: float
    activations: bool = False
