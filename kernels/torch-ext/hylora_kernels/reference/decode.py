# SPDX-License-Identifier: Apache-2.0
"""The definition of a decoding step: the last row of span-expanded attention over all tokens so far."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layout import SequenceLayout
from ..state import DecodeState
from . import span_attention


def last_rows(state: DecodeState) -> Tensor:
    """What each row's last token gets, `[B, Hq, 1, D]`, from all queries, keys and values anew."""
    rows = []
    for row, length in enumerate(state.lengths.tolist()):
        so_far = (x[row : row + 1, :, :length] for x in (state.queries, state.key, state.value))
        attended = span_attention(
            *so_far, layout=SequenceLayout.dense(1, length), options=state.options, scale=state.scale
        )
        rows.append(attended[:, :, -1:])
    return torch.cat(rows)
