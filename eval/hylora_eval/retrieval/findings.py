# SPDX-License-Identifier: Apache-2.0
"""What rules find, averaged over samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hylora_eval.estimates import mean_and_standard_error
from hylora_eval.results import PlainJson
from hylora_eval.retrieval.needles import NeededBlocks
from hylora_kernels.options import SpanOptions

_ALL = slice(None)

__all__ = ["AttendedHits", "Comparison", "LayerResult", "RuleResult", "Tally"]


@dataclass(frozen=True)
class AttendedHits:
    """What a rule finds of the needles that full attention finds: those on which, by the query that asks, it lays at
    least a tenth of its weight (the mean over the query heads of a KV head).

    Attributes:
        samples: that have such pairs.
        pairs: of needle and KV head, of any layer, for which that is so.
        share: of all such pairs.
        hit_rate: share of these pairs in which at least one of the needle's blocks was retrieved.
        standard_error: likewise, over samples; None for one.
        chance: the hit rate of blocks drawn at random.
        other_query: as in `RuleResult`.
        outliers: share of these pairs in which the key of the needle's token with most weight is among the 3 farthest
            from the mean of its block; of `block_size` keys drawn at random it would be 3.
    """

    samples: int
    pairs: int
    share: float
    hit_rate: float
    standard_error: float | None
    chance: float
    other_query: float | None
    outliers: float


@dataclass(frozen=True)
class LayerResult:
    """What a rule finds in one attention layer.

    Attributes:
        layer: its index in the model.
        hit_rate: over needles and KV heads, None without needles.
        heads: hit rate of each KV head.
        attended: as in `RuleResult`.
        mass: as in `RuleResult`.
    """

    layer: int
    hit_rate: float | None
    heads: tuple[float, ...]
    attended: AttendedHits | None
    mass: float | None


@dataclass(frozen=True)
class RuleResult(PlainJson):
    """What a rule finds.

    Needles that begin in the chunk that asks for them need no retrieval and are not counted. Hit rates are None
    without needles, mass where no token was looked at that has more blocks to choose from than it retrieves.

    Attributes:
        rule: its name.
        options: of the kernels: blocks, chunks and all else.
        samples: that have needles before the chunk that asks.
        hit_rate: share of needles of which at least one block was retrieved, over layers and KV heads.
        standard_error: of the hit rate over samples, None for one.
        chance: the hit rate of blocks drawn at random: the mean over all draws.
        other_query: the hit rate with the query of another token, no farther than a chunk before the one that asks:
            what it owes to blocks that stand out for any query. None where tokens do not choose by their own query.
        hit_rate_of_all: share of needles all of whose blocks were retrieved.
        chance_of_all: the same of blocks drawn at random.
        queries: needles before the chunk that asks.
        queries_in_chunk: needles that were left out.
        attended: what is found of the needles that full attention finds; None where it finds none.
        mass: share of the weight that full attention has on all candidates that lies on the retrieved ones.
        mass_standard_error: likewise.
        mass_of_random: that share of as many random blocks: the mean over all draws.
        mass_of_candidates: share of full attention's weight that lies on candidates at all.
        layers: the same by attention layer.
    """

    rule: str
    options: dict[str, Any]
    samples: int
    hit_rate: float | None
    standard_error: float | None
    chance: float | None
    other_query: float | None
    hit_rate_of_all: float | None
    chance_of_all: float | None
    queries: int
    queries_in_chunk: int
    attended: AttendedHits | None
    mass: float | None
    mass_standard_error: float | None
    mass_of_random: float | None
    mass_of_candidates: float | None
    layers: tuple[LayerResult, ...]


@dataclass(frozen=True)
class Comparison(PlainJson):
    """What several rules find in the same queries and keys.

    Attributes:
        samples: how many were read.
        rules: in the order in which they were given.
    """

    samples: int
    rules: tuple[RuleResult, ...]


@dataclass(eq=False)
class Tally:
    """What one rule finds in one sample.

    Attributes:
        options: by which it chooses.
        needed: the blocks that hold needles, None where none are known.
        layers: of each layer, by KV head [Hkv]: under "any", "all" and "other" the needles that were retrieved;
            under "attended" those that full attention finds, with "any_attended", "other_attended", "outliers" and
            the sum "chance_attended" of them; and under "mass", "random" and "candidates" full attention's weight on
            what was retrieved, on as many random blocks and on all candidates, summed over the "tokens" that have a
            choice.
    """

    options: SpanOptions
    needed: NeededBlocks | None
    layers: list[dict[str, Tensor]] = field(default_factory=list)


def average(rule: str, tallies: Sequence[Tally], layers: Sequence[int]) -> RuleResult:
    """Average what one rule found over samples, layers and KV heads.

    Args:
        rule: its name.
        tallies: of each sample.
        layers: indices of the attention layers.
    """
    needed = [tally.needed for tally in tallies if tally.needed is not None]
    queries = torch.tensor([len(each.queries) for each in needed])

    def stacked(name: str) -> Tensor | None:
        """[samples, layers, Hkv], without samples of which nothing is known."""
        known = [tally.layers for tally in tallies if all(name in found for found in tally.layers)]
        return torch.stack([torch.stack([found[name] for found in each]) for each in known]) if known else None

    def rate(name: str, at: slice = _ALL) -> tuple[float | None, float | None]:
        hits = stacked(name)
        if hits is None:
            return None, None
        return mean_and_standard_error(
            hits[:, at].flatten(1).sum(1).tolist(), (queries * hits[0, at].numel()).tolist()
        )

    def share(name: str, of: str, at: slice = _ALL) -> tuple[float | None, float | None]:
        part, whole = stacked(name), stacked(of)
        if part is None or not whole[:, at].sum() > 0:
            return None, None
        return mean_and_standard_error(*(sums[:, at].flatten(1).sum(1).tolist() for sums in (part, whole)))

    def attended(at: slice = _ALL) -> AttendedHits | None:
        pairs, error = share("any_attended", "attended", at)
        if pairs is None:
            return None
        counted = stacked("attended")[:, at]
        return AttendedHits(
            int((counted.flatten(1).sum(1) > 0).sum()),
            int(counted.sum()),
            rate("attended", at)[0],
            pairs,
            error,
            share("chance_attended", "attended", at)[0],
            share("other_attended", "attended", at)[0],
            share("outliers", "attended", at)[0],
        )

    def heads(index: int) -> tuple[float, ...]:
        hits = stacked("any")
        return () if hits is None else tuple((hits[:, index].sum(0) / queries.sum()).tolist())

    def chance(name: str) -> float | None:
        return float(sum(getattr(each, name).sum() for each in needed) / queries.sum()) if needed else None

    hit_rate, error = rate("any")
    mass, mass_error = share("mass", "candidates")
    return RuleResult(
        rule,
        vars(tallies[0].options),
        int((queries > 0).sum()),
        hit_rate,
        error,
        chance=chance("chances"),
        other_query=rate("other")[0],
        hit_rate_of_all=rate("all")[0],
        chance_of_all=chance("chances_of_all"),
        queries=int(queries.sum()),
        queries_in_chunk=sum(each.in_chunk for each in needed),
        attended=attended(),
        mass=mass,
        mass_standard_error=mass_error,
        mass_of_random=share("random", "candidates")[0],
        mass_of_candidates=None if mass is None else float(stacked("candidates").sum() / stacked("tokens").sum()),
        layers=tuple(
            LayerResult(layer, rate("any", at)[0], heads(index), attended(at), share("mass", "candidates", at)[0])
            for index, layer in enumerate(layers)
            for at in [slice(index, index + 1)]
        ),
    )
