# SPDX-License-Identifier: Apache-2.0
"""Does span-expanded attention retrieve the memory block that is needed?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hylora.attention import SpanConfig
from hylora_eval.estimates import mean_and_standard_error
from hylora_eval.recall import RecallSequence, check_sequences, same_lengths
from hylora_eval.results import PlainJson
from hylora_eval.retrieval.needles import NeededBlocks, Needles
from hylora_eval.retrieval.trace import RetrievalTrace, retrieval_options, trace_retrieval

__all__ = ["HitCounts", "LayerHits", "RetrievalResult", "check_needed", "hit_rates", "retrieval_hit_rate"]


@dataclass(frozen=True)
class LayerHits:
    """Hit rate of one attention layer.

    Attributes:
        layer: its index in the model.
        hit_rate: over all queries and KV heads.
        standard_error: of the hit rate over sequences, None for one sequence.
        heads: hit rate of each KV head.
        hit_rate_of_all: share of needles all of whose blocks were retrieved.
        oracle: hit rate of the blocks that full attention would weigh most, None where it was not asked for.
    """

    layer: int
    hit_rate: float
    standard_error: float | None
    heads: tuple[float, ...]
    hit_rate_of_all: float
    oracle: float | None


@dataclass(frozen=True)
class RetrievalResult(PlainJson):
    """How often the needed memory block was among those retrieved.

    Attributes:
        hit_rate: over all queries, layers and KV heads; of a needle that lies in several blocks, one is enough.
        standard_error: of the hit rate over sequences, None for one sequence.
        chance: hit rate of blocks drawn at random, over the same queries.
        hit_rate_of_all: share of needles all of whose blocks were retrieved.
        chance_of_all: the same of blocks drawn at random.
        oracle: hit rate of the blocks that full attention would weigh most, None where it was not asked for.
        queries: answers whose source begins before the chunk that asks for it.
        queries_in_chunk: answers whose source begins in the chunk itself, which need no retrieval and are not counted.
        sequences: sequences read.
        options: of the attention (`SpanConfig.to_dict`).
        layers: hit rate by attention layer.
    """

    hit_rate: float
    standard_error: float | None
    chance: float
    hit_rate_of_all: float
    chance_of_all: float
    oracle: float | None
    queries: int
    queries_in_chunk: int
    sequences: int
    options: dict[str, Any]
    layers: tuple[LayerHits, ...]


@dataclass(frozen=True, eq=False)
class HitCounts:
    """Of one sequence, its needles that were retrieved: each [layers, Hkv].

    Attributes:
        any: needles of which at least one block was retrieved.
        all: needles all of whose blocks were.
        oracle: needles of which the oracle has at least one block, None without an oracle.
    """

    any: Tensor
    all: Tensor
    oracle: Tensor | None

    @classmethod
    def of(cls, trace: RetrievalTrace, needed: NeededBlocks) -> HitCounts:
        """Count in a trace of the sequence."""
        found_any, found_all = zip(*(needed.hits(layer.blocks) for layer in trace.layers), strict=True)
        best = [needed.hits(layer.mass.blocks)[0] for layer in trace.layers if layer.mass is not None]
        return cls(torch.stack(found_any), torch.stack(found_all), torch.stack(best) if best else None)


@torch.no_grad()
def retrieval_hit_rate(model: nn.Module, sequences: Sequence[RecallSequence], batch_size: int = 8) -> RetrievalResult:
    """How often span-expanded attention retrieves the memory block that holds what a query must recall.

    An answer is predicted at the token before it; that token's chunk retrieves `top_k` of the memory blocks that end
    at or before the chunk's start. It is a hit for a layer and KV head if one of them holds the answer's source.
    Recall can be right without a hit (the recurrent layers remember too) and wrong in spite of one.

    Args:
        model: a causal language model, or a PEFT model around one, with "se_attn" as its attention.
        sequences: the sequences; neighbours of equal length share a batch.
        batch_size: sequences in one forward pass.

    Returns:
        The result, without an oracle.

    Raises:
        ValueError: if the attention is another one, a position is wrong, or every source lies in its query's chunk.
    """
    options = retrieval_options(model)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    check_sequences(sequences)
    needed = [NeededBlocks.of(Needles.of_recall(sequence), options) for sequence in sequences]
    check_needed(needed, options.chunk_size)
    counts: list[HitCounts] = []
    for batch in same_lengths(sequences, batch_size):
        for trace in trace_retrieval(model, torch.stack([sequence.input_ids for sequence in batch]), oracle=False):
            layers = [layer.layer for layer in trace.layers]
            counts.append(HitCounts.of(trace, needed[len(counts)]))
    return hit_rates(counts, needed, layers, SpanConfig.of(model.config.get_text_config()))


def check_needed(needed: Sequence[NeededBlocks], chunk_size: int) -> None:
    """Find out before a model reads whether anything is there to be retrieved.

    Raises:
        ValueError: if every needle lies in the chunk that asks for it.
    """
    if not any(len(each.selections) for each in needed):
        raise ValueError(
            f"no answer lies further back than its own chunk (chunk_size={chunk_size}); use longer sequences or "
            "smaller chunks"
        )


def hit_rates(
    counts: Sequence[HitCounts], needed: Sequence[NeededBlocks], layers: Sequence[int], options: SpanConfig
) -> RetrievalResult:
    """Average over sequences.

    Args:
        counts: of each sequence.
        needed: likewise.
        layers: indices of the attention layers.
        options: of the attention.

    Raises:
        ValueError: if there is nothing to be retrieved.
    """
    queries = torch.tensor([len(each.selections) for each in needed])
    hits = torch.stack([each.any for each in counts]).double()  # [sequences, layers, Hkv]
    whole = torch.stack([each.all for each in counts]).double()
    best = [each.oracle for each in counts if each.oracle is not None]
    oracle = torch.stack(best).double() if best else None

    def of_layer(index: int) -> LayerHits:
        return LayerHits(
            layers[index],
            *_rate(hits[:, index], queries),
            heads=tuple((hits[:, index].sum(0) / queries.sum()).tolist()),
            hit_rate_of_all=_rate(whole[:, index], queries)[0],
            oracle=None if oracle is None else _rate(oracle[:, index], queries)[0],
        )

    return RetrievalResult(
        *_rate(hits, queries),
        chance=float(sum(each.chances.sum() for each in needed) / queries.sum()),
        hit_rate_of_all=_rate(whole, queries)[0],
        chance_of_all=float(sum(each.chances_of_all.sum() for each in needed) / queries.sum()),
        oracle=None if oracle is None else _rate(oracle, queries)[0],
        queries=int(queries.sum()),
        queries_in_chunk=sum(each.in_chunk for each in needed),
        sequences=len(counts),
        options=options.to_dict(),
        layers=tuple(of_layer(index) for index in range(len(layers))),
    )


def _rate(hits: Tensor, queries: Tensor) -> tuple[float, float | None]:
    """Hits [sequences, ...] per query and whatever the other dimensions count, and the standard error."""
    return mean_and_standard_error(hits.flatten(1).sum(1), queries * hits[0].numel())
