# SPDX-License-Identifier: Apache-2.0
"""The columns of `SpanTables` by name, in kernels and, as `.value`, outside of them."""

from __future__ import annotations

from triton.language import constexpr

# How many each table has. An item is a run of neighbouring tokens, which the first three describe.
BLOCK_WIDTH, CHUNK_WIDTH, UNIT_WIDTH, READER_WIDTH = constexpr(3), constexpr(3), constexpr(6), constexpr(5)
ROW, FIRST, TOKENS = constexpr(0), constexpr(1), constexpr(2)
# Of units: who chooses for it, the first block of its sequence, the number of its candidates.
CHOOSER, UNIT_FIRST_BLOCK, CANDIDATES = constexpr(3), constexpr(4), constexpr(5)
# Of readers: where their chunk and their sequence start.
CHUNK_START, SEQUENCE_START = constexpr(3), constexpr(4)
