# SPDX-License-Identifier: Apache-2.0
"""What a unit's slots gave, put together with what its own chunk gave."""

from __future__ import annotations

from typing import Optional

import triton
import triton.language as tl
from torch import Tensor

from .columns import FIRST, ROW, TOKENS, UNIT_WIDTH
from .launch import launch_for
from .pairs import PairSlice
from .tiles import load_tile, vector_at


def merge_slots(total: Tensor, lse: Optional[Tensor], share: Tensor, share_lse: Optional[Tensor], part: PairSlice):
    """Merge shares of one softmax into the attention of the own chunk, in place; without `lse`, plainly add them.

    Args:
        total: `[B, Hq, L, D]`, the last dimension contiguous.
        lse: `[B, Hq, L]` float32, natural logarithms, the last dimension contiguous.
        share: `[Hkv, units, top_k, unit_size, G, D]`, contiguous; without meaning where a slot is empty.
        share_lse: the same without D, float32, in base 2.
        part: whose slots they are.
    """
    kv_heads, units, top_k, unit_size, groups, head_dim = share.shape
    total = total[:, part.heads]
    launch = launch_for("merge_slots", head_dim, total.dtype, total.device)
    _merge_slots[(triton.cdiv(units * unit_size * groups, launch.block_m), kv_heads)](
        total,
        None if lse is None else lse[:, part.heads],
        share,
        share_lse,
        part.chosen,
        part.units,
        units,
        top_k,
        groups,
        total.stride(),
        *((0, 0) if lse is None else lse.stride()[:2]),
        UNIT_SIZE=unit_size,
        ROWS=launch.block_m,
        **launch.settings(head_dim),
    )


@triton.jit(do_not_specialize=["units", "top_k", "groups", "lse_b", "lse_h"])
def _merge_slots(
    total,
    lse,
    share,
    share_lse,
    chosen,
    table,
    units,
    top_k,
    groups,
    total_strides,
    lse_b,
    lse_h,
    UNIT_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
):
    kv_head = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    within = place % (UNIT_SIZE * groups)  # a query of a unit, heads of a token side by side
    unit = place // (UNIT_SIZE * groups)
    real = unit < units
    of_unit = table + unit * UNIT_WIDTH
    real = real & (within // groups < tl.load(of_unit + TOKENS, real, other=0))
    row = tl.load(of_unit + ROW, real, other=0).to(tl.int64)
    position = (tl.load(of_unit + FIRST, real, other=0) + within // groups).to(tl.int64)
    head = kv_head * groups + within % groups
    chosen += (kv_head * units + unit) * top_k
    first = (kv_head * units + unit) * top_k * (UNIT_SIZE * groups) + within
    dim = tl.arange(0, BLOCK_D)
    # In the first chunk of a sequence there is nothing to add.
    if tl.max(tl.load(chosen, real, other=-1), 0) < 0:
        return

    weight = tl.full([ROWS], 1.0, tl.float32)
    if lse is not None:
        own = lse + row * lse_b + head * lse_h + position
        own_log = tl.load(own, real, other=0.0) * 1.4426950408889634
        # A finite pivot: without an own chunk a query may have read nothing.
        pivot = tl.maximum(own_log, -3.0e38)
        denominator = tl.exp2(own_log - pivot)
        for slot in range(top_k):
            listed = real & (tl.load(chosen + slot, real, other=-1) >= 0)
            log = tl.load(share_lse + first + slot * (UNIT_SIZE * groups), listed, other=float("-inf"))
            higher = tl.maximum(pivot, log)
            denominator = denominator * tl.exp2(pivot - higher) + tl.exp2(log - higher)
            pivot = higher
        log_total = pivot + tl.log2(denominator)
        finite = tl.maximum(log_total, -3.0e38)
        weight = tl.exp2(own_log - finite)

    total += vector_at(total_strides, row, head, position)[:, None] + dim[None, :]
    merged = load_tile(total, real, True, HEAD_DIM, BLOCK_D).to(tl.float32) * weight[:, None]
    for slot in range(top_k):
        listed = real & (tl.load(chosen + slot, real, other=-1) >= 0)
        at = first + slot * (UNIT_SIZE * groups)
        x = load_tile(share + at[:, None] * HEAD_DIM + dim[None, :], listed, True, HEAD_DIM, BLOCK_D).to(tl.float32)
        if lse is not None:
            x *= tl.exp2(tl.load(share_lse + at, listed, other=float("-inf")) - finite)[:, None]
        merged += x
    # Threads may hold copies of what they read: none is to read what another has already written.
    tl.debug_barrier()
    if lse is not None:
        tl.store(own, log_total * 0.6931471805599453, real)
    tl.store(total, merged.to(total.dtype.element_ty), real[:, None] & (dim < HEAD_DIM)[None, :])
