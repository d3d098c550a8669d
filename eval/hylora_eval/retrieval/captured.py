# SPDX-License-Identifier: Apache-2.0
"""How much of what full attention would look at is retrieved, averaged over sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from hylora_eval.estimates import mean_and_standard_error
from hylora_eval.retrieval.trace import RetrievalTrace

__all__ = ["CapturedMass", "LayerMass", "MassSums", "average_mass"]


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
