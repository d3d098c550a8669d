# SPDX-License-Identifier: Apache-2.0
"""`inspect_retrieval`: hit rates and attention mass over samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hylora.attention import SpanConfig
from hylora_eval.results import PlainJson
from hylora_eval.retrieval.captured import LayerMass, MassSums, average_mass
from hylora_eval.retrieval.hit_rate import HitCounts, RetrievalResult, check_needed, hit_rates
from hylora_eval.retrieval.needles import NeededBlocks, Sample
from hylora_eval.retrieval.trace import RetrievalTrace, retrieval_options, trace_retrieval

__all__ = ["Inspection", "inspect_retrieval"]


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
