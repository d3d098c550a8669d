# SPDX-License-Identifier: Apache-2.0
"""Scores from products of queries and keys: scaled, and bounded where there is a softcap.

Without one a score is `scale * product`; with one it is `softcap * tanh(scale * product / softcap)`.
"""

from __future__ import annotations

from math import e, log2
from typing import Optional, Tuple

import triton
import triton.language as tl

from ..scoring import Scoring


def score_factors(scoring: Scoring) -> Tuple[float, Optional[float]]:
    """What kernels multiply: what `softcapped` gives, for scores in base 2; and products within it, None without."""
    scale, softcap = scoring
    if softcap is None:
        return scale * log2(e), None
    return softcap * log2(e), 2 * log2(e) * scale / softcap


@triton.jit
def softcapped(products, cap_factor):
    """Products as they are without a softcap, else their tanh, of which scores are a multiple.

    To be called before scores are masked: masked ones are -inf.
    """
    if cap_factor is not None:
        # Exactly 1 and -1 far from 0, where the exponential is infinite or 0.
        products = 1.0 - 2.0 / (1.0 + tl.exp2(products * cap_factor))
    return products


@triton.jit
def uncapped_gradient(gradient, products, cap_factor):
    """The gradient of what `softcapped` was given, from that of what it gave, `products`, masked since or not."""
    if cap_factor is not None:
        tanh = tl.maximum(products, -1.0)  # finite, where the gradient is 0
        gradient *= 1.0 - tanh * tanh
    return gradient
