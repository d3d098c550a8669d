# SPDX-License-Identifier: Apache-2.0
"""Given choices of blocks, so that attention is tested apart from retrieval."""

from __future__ import annotations

import torch
from torch import Tensor

from hylora_kernels import SequenceLayout
from hylora_kernels.options import SpanOptions
from hylora_kernels.selection import rank


def random_choice(heads: int, layout: SequenceLayout, options: SpanOptions, seed: int = 0) -> Tensor:
    """`[Hkv, units, top_k]` int32: as many random candidates as each unit retrieves, in any order, then -1."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [torch.zeros(heads, 0, options.top_k)]
    for _, _, length in layout.sequences:
        counts = torch.tensor([options.candidates(unit) for unit in range(options.units(length))])
        scores = torch.rand(heads, len(counts), int(counts.max()), generator=generator)
        chosen.append(rank(scores, counts, options.top_k))
    return torch.cat(chosen, dim=1).to(torch.int32)
