# SPDX-License-Identifier: Apache-2.0
"""Attention sinks: one learned logit per query head, a key with the value 0 that every query sees.

Backends know nothing of them. A sink only adds to the denominator of a softmax, so that the log-sum-exp without it is
enough to put it in afterwards. Given the output and the log-sum-exp with sinks, the backward of any backend computes
the gradients of query, key and value as they are with sinks; that of the sinks themselves follows from the same two.
"""

from __future__ import annotations

from typing import Optional, Tuple

import torch
from torch import Tensor

from .cached import cached_tables
from .layout import SequenceLayout
from .saved import Saved

# Wide numbers of outputs and their gradients are held about so many at a time, and those of at least one head.
_SLICE = 1 << 27


def check_sinks(sinks: Optional[Tensor], query: Tensor):
    """Refuse what is not one floating logit for each head of the query."""
    if sinks is None:
        return
    if sinks.shape != query.shape[1:2] or not sinks.is_floating_point():
        raise ValueError(
            f"sinks {tuple(sinks.shape)} of {sinks.dtype} must be one floating logit for each of the "
            f"{query.shape[1]} query heads, [{query.shape[1]}]"
        )
    if sinks.device != query.device:
        raise ValueError(f"sinks lie on {sinks.device}, query on {query.device}; use one device")


def add_sinks(
    output: Tensor, lse: Tensor, sinks: Optional[Tensor], layout: Optional[SequenceLayout] = None
) -> Tuple[Tensor, Tensor]:
    """Attention with sinks, which are put into the output in place.

    Args:
        output: `[B, Hq, L, D]`, the attention without them; 0 where a query sees no key.
        lse: `[B, Hq, L]`, its log-sum-exp, in at least float32.
        sinks: `[Hq]`; None for none.
        layout: whose padding keeps a log-sum-exp of -inf; with None it gets that of the sinks.

    Returns:
        Output and log-sum-exp with them, of the same dtypes.
    """
    if sinks is None:
        return output, lse
    sinks = sinks.to(lse.dtype)[:, None]
    # Where a query sees no key and its sink is -inf, there is no difference of the two.
    output.mul_(torch.sigmoid(lse - sinks).masked_fill_(lse == float("-inf"), 0)[..., None])
    merged = torch.logaddexp(lse, sinks)
    padding = None if layout is None else padded_positions(layout, lse.device)
    if padding is not None:
        merged.masked_fill_(padding, float("-inf"))
    return output, merged


def sinks_gradient(
    grad: Tensor, saved: Saved, sinks: Optional[Tensor], lse_grad: Optional[Tensor] = None
) -> Optional[Tensor]:
    """The gradient of the sinks, `[Hq]` in their dtype; None without sinks.

    Args:
        grad: `[B, Hq, L, D]`, of the output.
        saved: of the forward; output and log-sum-exp are those with sinks.
        sinks: as in `add_sinks`.
        lse_grad: `[B, Hq, L]`, of the log-sum-exp; None means 0.
    """
    if sinks is None:
        return None
    dtype, step = saved.lse.dtype, max(1, _SLICE // max(1, grad[:, 0].numel()))
    of_heads = zip(grad.split(step, dim=1), saved.output.split(step, dim=1))
    # The softmax's derivative for a key with the value 0.
    share = -torch.cat([(g.to(dtype) * o.to(dtype)).sum(dim=-1) for g, o in of_heads], dim=1)
    if lse_grad is not None:
        share += lse_grad
    share *= torch.exp(sinks.to(dtype)[:, None] - saved.lse)
    share.masked_fill_(saved.lse == float("-inf"), 0)  # at padding, and where even the sink is -inf
    return share.sum(dim=(0, 2)).to(sinks.dtype)


@cached_tables
def padded_positions(layout: SequenceLayout, device: torch.device) -> Optional[Tensor]:
    """`[B, 1, L]` bool, True outside of every sequence; None where all of the grid is inside."""
    if sum(length for _, _, length in layout.sequences) == layout.batch * layout.length:
        return None
    padding = torch.ones(layout.batch, 1, layout.length, dtype=torch.bool)
    for rows, start, length in layout.segments():
        padding[rows, :, start : start + length] = False
    return padding.to(device)
