# SPDX-License-Identifier: Apache-2.0
"""What must be retrieved: needles, the tokens that ask for them, and the blocks that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb

import torch
from torch import Tensor

from hylora_eval.recall import RecallSequence
from hylora_kernels.options import SpanOptions

__all__ = ["NeededBlocks", "Needles", "Sample"]


@dataclass(frozen=True, eq=False)
class Needles:
    """Stretches of a sequence that are needed later in it.

    Attributes:
        queries: positions [N] of the tokens after which the answer is predicted.
        starts: first position [N] of each needle.
        stops: one past its last [N].
    """

    queries: Tensor
    starts: Tensor
    stops: Tensor

    @classmethod
    def of_recall(cls, sequence: RecallSequence, tokens: int = 1) -> Needles:
        """Of a recall sequence: an answer is predicted at the token before it.

        Args:
            sequence: the sequence.
            tokens: of a needle, from the one that holds the answer. With 2 it has the next one too, to which short
                convolutions carry the answer: some models look at the one, others at the other.
        """
        return cls(sequence.answers - 1, sequence.sources, (sequence.sources + tokens).minimum(sequence.answers))

    @classmethod
    def at_end(cls, length: int, spans: Sequence[tuple[int, int]]) -> Needles:
        """Needles (start, stop) that the last of `length` tokens asks for, as in a prompt that ends in a question."""
        starts, stops = torch.tensor(spans, dtype=torch.long).reshape(-1, 2).T
        return cls(torch.full_like(starts, length - 1), starts, stops)


@dataclass(frozen=True, eq=False)
class Sample:
    """A sequence to read.

    Attributes:
        input_ids: tokens [L].
        needles: in it, None where none are known.
    """

    input_ids: Tensor
    needles: Needles | None = None


@dataclass(frozen=True, eq=False)
class NeededBlocks:
    """The blocks that hold needles, for the needles that begin before the chunk that asks for them.

    Attributes:
        queries: positions [N] of the tokens that should retrieve them.
        starts: first position [N] of each needle.
        stops: one past its last that lies before the chunk [N].
        blocks: of each needle [N, W], those before the chunk's start; filled up with -1.
        chances: chance that random blocks hold any of a needle's blocks [N].
        chances_of_all: chance that they hold all of them [N].
        in_chunk: how many needles begin in the chunk that asks for them, which need no retrieval and are left out.
    """

    queries: Tensor
    starts: Tensor
    stops: Tensor
    blocks: Tensor
    chances: Tensor
    chances_of_all: Tensor
    in_chunk: int

    @classmethod
    def of(cls, needles: Needles, options: SpanOptions) -> NeededBlocks:
        """Find the blocks.

        Args:
            needles: of one sequence.
            options: by which it is cut into chunks and blocks, and how many of these are retrieved.
        """
        chunk_starts = needles.queries // options.chunk_size * options.chunk_size
        beyond = needles.starts < chunk_starts
        chunk_starts, starts = chunk_starts[beyond], needles.starts[beyond]
        # What of a needle lies in the chunk is seen there.
        stops = needles.stops[beyond].minimum(chunk_starts)
        first, last = starts // options.block_size, (stops - 1) // options.block_size
        width = int((last - first).max()) + 1 if len(first) else 0
        blocks = first[:, None] + torch.arange(width)
        blocks = blocks.where(blocks <= last[:, None], -1)
        candidates = chunk_starts // options.block_size
        chances = [
            _chances(total, needed, int(((row >= 0) & (row < total)).sum()), options.top_k)
            for total, needed, row in zip(candidates.tolist(), (blocks >= 0).sum(dim=1).tolist(), blocks, strict=True)
        ]
        chance_of_any, chance_of_all = torch.tensor(chances, dtype=torch.float64).reshape(-1, 2).T
        queries, in_chunk = needles.queries[beyond], int((~beyond).sum())
        return cls(queries, starts, stops, blocks, chance_of_any, chance_of_all, in_chunk)

    def hits(self, retrieved: Tensor) -> tuple[Tensor, Tensor]:
        """Needles of which any, and all blocks are retrieved: bool [Hkv, N] each.

        Args:
            retrieved: for each needle, int64 [Hkv, N, top_k], filled up with -1.
        """
        found = (retrieved[..., None] == self.blocks[:, None]).any(dim=2)  # [Hkv, N, W]
        needed = self.blocks >= 0
        return (found & needed).any(dim=2), (found | ~needed).all(dim=2)


@lru_cache
def _chances(candidates: int, needed: int, reachable: int, top_k: int) -> tuple[float, float]:
    """Chance that `top_k` of the candidates, drawn without replacement, hold any and all of the blocks needed.

    A block that straddles the chunk's start is needed and never a candidate: not reachable.
    """
    drawn = min(top_k, candidates)
    ways = comb(candidates, drawn)
    none = comb(candidates - reachable, drawn) / ways
    whole = reachable == needed and drawn >= needed
    return 1 - none, comb(candidates - needed, drawn - needed) / ways if whole else 0.0
