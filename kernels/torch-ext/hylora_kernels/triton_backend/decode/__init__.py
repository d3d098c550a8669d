# SPDX-License-Identifier: Apache-2.0
"""A decoding step in four kernels: append the token, rank the blocks, attend in splits, combine the splits.

All positions come from the lengths on the device, and grids depend on options and capacity alone: a CUDA graph of a
step can be replayed for every token to come. What there is nothing to do for exits early. A token beyond the capacity,
which only replays can meet, is not stored and gets NaN.
"""

from __future__ import annotations

from typing import Optional, Tuple

from torch import Tensor

from ...inputs import accumulation_dtype
from ...kept import DecodeTensors
from ...layout import SequenceLayout
from ...options import SpanOptions
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
    scale: float,
    softcap: Optional[float] = None,
) -> Tuple[Tensor, Tensor]:
    """One token for each row by the kernels, else by torch.

    Of the tokens' tensors the last dimension is contiguous, the state's tensors are wholly so.
    """
    if not is_step(layout, kept):
        return extend(query, key, value, layout, kept, options, scale, softcap)
    pooled = append(query, key, value, kept, options, scale)
    best = rank_blocks(pooled, kept.summaries, kept.lengths, options) if options.retrieves else None
    output = attend(query, kept.key_cache, kept.value_cache, best, kept.lengths, options, scale)
    kept.lengths.add_(1)
    return output, output.new_full(output.shape[:3], float("nan"), dtype=accumulation_dtype(output.dtype))
