# SPDX-License-Identifier: Apache-2.0
"""What the backward of attention is given beside the gradient of the output."""

from __future__ import annotations

from typing import NamedTuple, Optional

from torch import Tensor


class Saved(NamedTuple):
    """The arguments and results of a forward.

    Attributes:
        query: `[B, Hq, L, D]`; of it and the following three, the last dimension is contiguous.
        key: `[B, Hkv, L, D]`.
        value: `[B, Hkv, L, D]`.
        output: `[B, Hq, L, D]`.
        lse: `[B, Hq, L]`, the log-sum-exp of each query's scores, in at least float32.
        blocks: `[Hkv, units, top_k]` int32, those that span-expanded attention retrieved.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    lse: Tensor
    blocks: Optional[Tensor] = None
