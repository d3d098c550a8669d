# SPDX-License-Identifier: Apache-2.0
"""The definition of decoding: the last rows of span-expanded attention over all tokens so far."""

from __future__ import annotations

from typing import Optional

from torch import Tensor

from ..layout import SequenceLayout
from ..state import DecodeState
from . import span_attention


def last_rows(state: DecodeState, layout: SequenceLayout, sinks: Optional[Tensor]) -> Tensor:
    """What the newest tokens, which lie in this layout, get of all tokens anew: `[B, Hq, n, D]`."""
    batch, heads, _, head_dim = state.queries.shape
    output = state.queries.new_zeros(batch, heads, layout.length, head_dim)
    lengths = state.lengths.tolist()
    for row, start, new in layout.sequences:
        so_far = (x[row : row + 1, :, : lengths[row]] for x in (state.queries, state.key_cache, state.value_cache))
        tokens = (x.to(output.device) for x in so_far)
        dense = SequenceLayout.dense(1, lengths[row])
        attended = span_attention(*tokens, dense, state.options, state.scoring, sinks)
        output[row, :, start : start + new] = attended[0, :, -new:]
    return output
