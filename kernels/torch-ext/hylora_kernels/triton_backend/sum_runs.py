# SPDX-License-Identifier: Apache-2.0
"""Adding up what the runs of a list gave for the keys of its block: one program owns a block, the order is theirs."""

from __future__ import annotations

from typing import Optional

import triton
import triton.language as tl
from torch import Tensor

from .inverse import Runs
from .launch import launch_for
from .pairs import block_of_row
from .tables import SpanTables
from .tiles import vector_at


def add_runs(of_runs: Tensor, runs: Runs, total: Tensor, tables: SpanTables, order: Optional[Tensor] = None):
    """Add the shares of runs to what belongs to the keys of their blocks, in float32, rounded once.

    Args:
        of_runs: `[runs, block_size, D]` float32, by run.
        runs: which list has which.
        total: `[B, Hkv, L, D]`, changed in place; the last dimension is contiguous.
        tables: those of the layout.
        order: `[lists]` int32, the first rows of the order in which the lists were cut; of them only lists of several
            runs count. None means all lists, as they come.
    """
    block_size, head_dim = of_runs.shape[1:]
    launch = launch_for("sum_runs", head_dim, of_runs.dtype, of_runs.device)
    block_n = min(launch.block_n, block_size)
    lists = runs.first.shape[0] - 1 if order is None else order.shape[0]
    _sum_runs[(lists, block_size // block_n)](
        of_runs,
        runs.first,
        order,
        total,
        tables.blocks,
        tables.blocks.shape[0],
        of_runs.stride(0),
        total.stride(),
        BLOCK_N=block_n,
        **launch.settings(head_dim),
    )


@triton.jit(do_not_specialize=["block_count"])
def _sum_runs(
    of_runs,
    first_runs,
    order,
    total,
    block_table,
    block_count,
    run_stride,
    strides,
    BLOCK_N: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    listed = tl.program_id(0)
    first = tl.load(first_runs + listed)
    end = tl.load(first_runs + listed + 1)
    if order is not None:
        listed = tl.load(order + listed)
        first = tl.where(end - first > 1, first, end)
    if first == end:
        return
    kv_head, row, block_start = block_of_row(block_table, listed, block_count)
    dim = tl.arange(0, BLOCK_D)
    place = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (place >= 0)[:, None] & (dim < HEAD_DIM)[None, :]
    total += vector_at(strides, row, kv_head, (block_start + place).to(tl.int64))[:, None] + dim[None, :]
    of_runs += first.to(tl.int64) * run_stride + place[:, None] * HEAD_DIM + dim[None, :]
    sums = tl.load(total, inside, other=0.0).to(tl.float32)
    for _ in range(first, end):
        sums += tl.load(of_runs, inside, other=0.0)
        of_runs += run_stride
    tl.debug_barrier()  # as in merge_slots
    tl.store(total, sums.to(total.dtype.element_ty), inside)
