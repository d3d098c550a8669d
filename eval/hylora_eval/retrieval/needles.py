# SPDX-License-Identifier: Apache-2.0
"""What must be retrieved: needles, the tokens that ask for them, and the blocks that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb, prod

import torch
from torch import Tensor

from hylora_eval.recall import RecallSequence
from hylora_kernels.options import SpanOptions

__all__ = ["FARTHEST", "NeededBlocks", "Needles", "Sample"]

# Keys of a block that count as its outliers.
FARTHEST = 3


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
    def of_recall(cls, sequence: RecallSequence) -> Needles:
        """Of a recall sequence: an answer is predicted at the token before it.

        A needle is the token that holds the answer and the next, to which short convolutions carry it: some models
        look at the one, others at the other.
        """
        return cls(sequence.answers - 1, sequence.sources, (sequence.sources + 2).minimum(sequence.answers))

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

    def outliers(self, key: Tensor, block_size: int) -> tuple[Tensor, float]:
        """Needles with a token whose key is among the `FARTHEST` from the mean of its block: a count [Hkv].

        Also how many that would be if keys were farthest at random.

        Args:
            key: of the sequence [Hkv, L, D], on the CPU.
            block_size: tokens of a block.
        """
        whole = key.shape[1] // block_size * block_size
        keys = key[:, :whole].float().unflatten(1, (-1, block_size))
        distances = (keys - keys.mean(dim=2, keepdim=True)).square().sum(dim=3)
        number = min(FARTHEST, block_size)
        farthest = distances.topk(number, dim=2).indices
        is_outlier = torch.zeros(distances.shape, dtype=torch.bool).scatter_(2, farthest, True).flatten(1)
        count, expected = torch.zeros(len(key)), 0.0
        for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True):
            places = torch.arange(start, max(start, min(stop, whole)))
            count += is_outlier[:, places].any(dim=1)
            sizes = torch.bincount(places // block_size).tolist()
            expected += 1 - prod(comb(block_size - size, number) / comb(block_size, number) for size in sizes)
        return count, expected


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
