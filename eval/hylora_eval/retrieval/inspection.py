# SPDX-License-Identifier: Apache-2.0
"""Over samples: how often what is needed is retrieved, and how much of what full attention would look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from hylora.attention import SpanConfig
from hylora_eval.estimates import mean_and_standard_error
from hylora_eval.results import PlainJson
from hylora_eval.retrieval.hit_rate import HitCounts, RetrievalResult, check_needed, hit_rates
from hylora_eval.retrieval.needles import NeededBlocks, Sample
from hylora_eval.retrieval.trace import RetrievalTrace, retrieval_options, trace_retrieval

__all__ = ["CapturedMass", "Inspection", "LayerMass", "MassSums", "average_mass", "inspect_retrieval"]


@dataclass(frozen=True)
class CapturedMass:
    """Shares of full attention's weight.

    Attributes:
        retrieved: on the blocks that were retrieved.
        oracle: on as many blocks, those with most weight.
        random: expected on as many blocks drawn at random.
        candidates: on all blocks there were to choose from.
        own_chunk: on the query's own chunk.
        overlap: share of the oracle's blocks that were retrieved.
    """

    retrieved: float
    oracle: float
    random: float
    candidates: float
    own_chunk: float
    overlap: float


@dataclass(frozen=True)
class LayerMass:
    """Shares in one attention layer.

    Attributes:
        layer: its index in the model.
        mean: over KV heads.
        standard_error: of the mean share that was retrieved, over sequences; None for one sequence.
        heads: of each KV head.
    """

    layer: int
    mean: CapturedMass
    standard_error: float | None
    heads: tuple[CapturedMass, ...]


@dataclass(frozen=True, eq=False)
class MassSums:
    """Shares of one sequence, summed over the queries that have more blocks to choose from than they retrieve.

    Attributes:
        sums: float64 [layers, Hkv, fields of `CapturedMass`].
        queries: how many they are.
    """

    sums: Tensor
    queries: int

    @classmethod
    def of(cls, trace: RetrievalTrace) -> MassSums:
        """Sum over a trace with an oracle."""
        options = trace.options
        candidates = torch.tensor([options.candidates(unit) for unit in range(options.units(trace.length))])
        ends = (torch.arange(len(candidates)) + 1) * options.unit_size
        queries = (options.unit_size - (ends - trace.length).clamp(min=0)).where(candidates > options.top_k, 0)
        drawn = options.top_k / candidates.clamp(min=1)
        sums = []
        for layer in trace.layers:
            shares = {name: getattr(layer.mass, name) for name in _MEASURED}
            shares["random"] = layer.mass.candidates * drawn
            of_fields = torch.stack([shares[field.name].double() for field in fields(CapturedMass)], dim=-1)
            sums.append((of_fields * queries[:, None]).sum(dim=1))
        return cls(torch.stack(sums), int(queries.sum()))


_MEASURED = [field.name for field in fields(CapturedMass) if field.name != "random"]


def average_mass(sums: Sequence[MassSums], layers: Sequence[int]) -> tuple[LayerMass, ...]:
    """Average over the queries of all sequences.

    Args:
        sums: of each sequence.
        layers: indices of the attention layers.

    Returns:
        The shares of each layer; none of them if no query had more blocks to choose from than it retrieves.
    """
    queries = torch.tensor([each.queries for each in sums])
    total = int(queries.sum())
    if total == 0:
        return ()
    stacked = torch.stack([each.sums for each in sums])  # [sequences, layers, Hkv, fields]
    means = stacked.sum(dim=0) / total
    retrieved = stacked[..., 0].mean(dim=2)
    return tuple(
        LayerMass(
            layer,
            CapturedMass(*means[index].mean(dim=0).tolist()),
            mean_and_standard_error(retrieved[:, index], queries)[1],
            tuple(CapturedMass(*head) for head in means[index].tolist()),
        )
        for index, layer in enumerate(layers)
    )


@dataclass(frozen=True, eq=False)
class Inspection(PlainJson):
    """What a model retrieves.

    Attributes:
        needles: hit rates, None for samples without needles.
        mass: share of full attention's weight that is retrieved, by layer; empty where no query had more blocks to
            choose from than it retrieves.
    """

    needles: RetrievalResult | None
    mass: tuple[LayerMass, ...]


@torch.no_grad()
def inspect_retrieval(
    model: nn.Module,
    samples: Sequence[Sample],
    observe: Callable[[int, RetrievalTrace], None] = lambda index, trace: None,
) -> Inspection:
    """Compare what span-expanded attention retrieves with what is needed, with an oracle and with chance.

    Args:
        model: a causal language model, or a PEFT model around one, with "se_attn" as its attention.
        samples: to read, one by one; all with needles or none.
        observe: called after each sample with its index and its trace, which is not kept.

    Returns:
        The inspection.

    Raises:
        ValueError: if the attention is another one, there is no sample, some have needles and others none, every
            needle lies in the chunk that asks for it, or no sample is longer than a chunk.
    """
    options = retrieval_options(model)
    if not samples:
        raise ValueError("there is no sample to inspect")
    needles = [sample.needles for sample in samples if sample.needles is not None]
    if needles and len(needles) < len(samples):
        raise ValueError(f"{len(needles)} of {len(samples)} samples have needles; inspect the others on their own")
    longest = max(len(sample.input_ids) for sample in samples)
    if longest <= options.chunk_size:
        raise ValueError(
            f"the longest sample has {longest} tokens, all in its first chunk (chunk_size={options.chunk_size}), so "
            "nothing is retrieved; use longer samples or smaller chunks"
        )
    needed = [NeededBlocks.of(each, options) for each in needles]
    if needed:
        check_needed(needed, options.chunk_size)

    counts, sums = [], []
    for index, sample in enumerate(samples):
        (trace,) = trace_retrieval(model, sample.input_ids[None])
        sums.append(MassSums.of(trace))
        if needed:
            counts.append(HitCounts.of(trace, needed[index]))
        observe(index, trace)
    layers = [layer.layer for layer in trace.layers]
    config = SpanConfig.of(model.config.get_text_config())
    return Inspection(
        needles=hit_rates(counts, needed, layers, config) if needed else None,
        mass=average_mass(sums, layers),
    )
