# SPDX-License-Identifier: Apache-2.0
"""The gradients of attention for given blocks: by kernels each of which owns what it writes."""

from __future__ import annotations

from typing import Optional, Tuple

import torch
from torch import Tensor

from ..saved import Saved
from ..scoring import Scoring
from .backward_own import own_gradients
from .backward_pairs import add_pair_gradients
from .backward_query import query_gradient
from .backward_retrieved import add_retrieved_gradients
from .tables import SpanTables


def attention_backward(
    grad: Tensor,
    saved: Saved,
    tables: SpanTables,
    scoring: Scoring,
    block_size: int,
    lse_grad: Optional[Tensor] = None,
    own_chunk: bool = True,
    own: Optional[Tuple[Tensor, Tensor, Tensor]] = None,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of `attention_forward` (chapter 6, equations 6.1 to 6.4); the choice of blocks has none.

    Results repeat bit for bit if `own` does.

    Args:
        grad: `[B, Hq, L, D]`, gradient of the output, any strides.
        saved: of the forward, with the blocks that each unit reads.
        tables: those of the layout.
        scoring: scale and softcap of the scores.
        block_size: tokens in a block.
        lse_grad: `[B, Hq, L]` float32, gradient of the log-sum-exp; None means 0.
        own_chunk: whether queries attended to their own chunk too.
        own: the own chunks' share of the gradients, if a library computed it; that of what was retrieved is added in
            place.

    Returns:
        Gradients of query, key and value in their shapes, strides and dtype, exactly 0 at padded positions.
    """
    if grad.stride(-1) != 1:  # the gradient of a sum is one number, expanded
        grad = grad.contiguous()
    if own is not None and not saved.blocks.numel():
        return own
    own_query, *of_keys = own or (None,)
    query_grad, statistics = query_gradient(grad, saved, tables, scoring, block_size, lse_grad, own_chunk, own_query)
    if own is None:
        fresh = torch.empty_like if tables.covered and own_chunk else torch.zeros_like
        of_keys = fresh(saved.key), fresh(saved.value)
        if own_chunk:
            own_gradients(grad, saved, statistics, *of_keys, tables, scoring)
    key_grad, value_grad = of_keys
    gradients = (query_grad, key_grad, value_grad)
    if not tables.shared:
        add_pair_gradients(grad, saved, statistics, gradients, tables, scoring, block_size)
    elif saved.blocks.numel():
        add_retrieved_gradients(grad, saved, statistics, key_grad, value_grad, tables, scoring, block_size)
    return gradients
