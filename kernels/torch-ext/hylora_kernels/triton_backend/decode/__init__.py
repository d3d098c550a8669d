# SPDX-License-Identifier: Apache-2.0
"""A decoding step in four kernels: append the token, rank the blocks, attend in splits, combine the splits.

All positions come from the lengths on the device, and grids depend on options and capacity alone: a CUDA graph of a
step can be replayed for every token to come. What there is nothing to do for exits early. A token beyond the capacity,
which only replays can meet, is not stored and gets NaN.
"""

from __future__ import annotations

from typing import Tuple

from torch import Tensor

from ...kept import DecodeTensors
from ...layout import SequenceLayout
from ...options import SpanOptions
from ...scoring import Scoring
from ...torch_backend.decode import is_step
from ...torch_backend.extend import extend
from ..launch import on_its_device
from .attention import attend
from .retrieval import rank_blocks
from .update import append


@on_its_device
def span_decode(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SequenceLayout,
    kept: DecodeTensors,
    options: SpanOptions,
    scoring: Scoring,
) -> Tuple[Tensor, Tensor]:
    """One token for each row by the kernels, else by torch: the output, and its log-sum-exp `[B, Hq, n]`.

    Of the tokens' tensors the last dimension is contiguous, the state's tensors are wholly so.
    """
    if not is_step(layout, kept):
        return extend(query, key, value, layout, kept, options, scoring)
    pooled = append(query, key, value, kept, options, scoring.scale)
    best = rank_blocks(pooled, kept.summaries, kept.lengths, options) if options.retrieves else None
    attended = attend(query, kept.key_cache, kept.value_cache, best, kept.lengths, options, scoring)
    kept.lengths.add_(1)
    return attended
