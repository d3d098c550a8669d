# SPDX-License-Identifier: Apache-2.0
"""Tiles of rows in pieces side by side: tuples of `[rows, width]`, one for each of `launch.piece_widths`.

Triton's tiles are powers of two wide, and many head dimensions are not.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import load_tile


@triton.jit
def piece_columns(WIDTHS: tl.constexpr):
    """The columns `[1, width]` of each piece."""
    columns = ()
    first = 0
    for i in tl.static_range(len(WIDTHS)):
        columns = columns + ((first + tl.arange(0, WIDTHS[i]))[None, :],)
        first += WIDTHS[i]
    return columns


@triton.jit
def zero_pieces(ROWS: tl.constexpr, WIDTHS: tl.constexpr):
    """Zeros `[ROWS, width]` float32 for each piece."""
    pieces = ()
    for i in tl.static_range(len(WIDTHS)):
        pieces = pieces + (tl.zeros([ROWS, tl.constexpr(WIDTHS[i])], tl.float32),)
    return pieces


@triton.jit
def load_pieces(pointers, columns, inside, MASKED: tl.constexpr, HEAD_DIM: tl.constexpr, WIDTHS: tl.constexpr):
    """Load pieces like `load_tile`, from where pointers and columns add up to."""
    pieces = ()
    first = 0
    for i in tl.static_range(len(WIDTHS)):
        pieces = pieces + (load_tile(pointers + columns[i], inside, MASKED, HEAD_DIM - first, WIDTHS[i]),)
        first += WIDTHS[i]
    return pieces


@triton.jit
def store_pieces(pointers, columns, pieces, inside, HEAD_DIM: tl.constexpr):
    """Store pieces in rows that are inside, up to the head dimension; pointers `[rows, 1]` are to their beginnings."""
    for i in tl.static_range(len(columns)):
        piece = pieces[i].to(pointers.dtype.element_ty)
        tl.store(pointers + columns[i], piece, inside[:, None] & (columns[i] < HEAD_DIM))


@triton.jit
def dot_pieces(left, right):
    """Products of the rows of two tiles."""
    products = None
    for i in tl.static_range(len(left)):
        products = tl.dot(left[i], tl.trans(right[i]), products, input_precision="ieee")
    return products


@triton.jit
def add_pieces(sums, pieces):
    """The sums, in their dtype, with the pieces added."""
    added = ()
    for i in tl.static_range(len(pieces)):
        added = added + (sums[i] + pieces[i].to(sums[i].dtype),)
    return added


@triton.jit
def add_products(weights, pieces, sums):
    """The sums, with weights times the pieces added to each."""
    added = ()
    for i in tl.static_range(len(pieces)):
        added = added + (tl.dot(weights, pieces[i], sums[i], input_precision="ieee"),)
    return added
