# SPDX-License-Identifier: Apache-2.0
"""Whether a claim holds: differences between settings, paired by seed.

A pair of runs with one seed learns from the same rows in the same order and is measured on the same facts and prompts,
and each seed brings others. So the differences of the pairs vary by all that chance decides, and an interval over
seeds (Student's t) tells what a further seed would bring.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from cells import Cell, Question

from hylora_eval.estimates import t_quantile

__all__ = ["Estimate", "Judged", "estimate", "figure", "judge"]

HELD, NOT_HELD, UNCLEAR = "held", "not held", "unclear"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and half of its 95 % interval; None for one seed."""

    mean: float
    reach: float | None
    seeds: int


@dataclass(frozen=True)
class Judged:
    """A claim about one model.

    Attributes:
        claim: as the question has it.
        model: it was tried on.
        difference: of the two settings, where more is in the claim's favour.
        verdict: "held", "not held" or "unclear".
    """

    claim: dict[str, Any]
    model: str
    difference: Estimate
    verdict: str


def estimate(values: list[float]) -> Estimate:
    """The mean of values that seeds gave."""
    if len(values) == 1:
        return Estimate(values[0], None, 1)
    return Estimate(fmean(values), t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values)), len(values))


def figure(result: dict[str, Any], on: str) -> float | None:
    """What a cell's result says, such as "full nll 4096"; the mean of all below it where that is several, and full
    attention's where a model has no other. None where it was not measured."""
    way, *path = on.split()
    found: Any = result.get(way, result["full"])
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return None if found is None else fmean(_leaves(found))


def _leaves(tree: Any) -> Iterator[float]:
    if isinstance(tree, dict):
        for branch in tree.values():
            yield from _leaves(branch)
    else:
        yield tree


def values(model: str, setting: str, on: str, seeds: int) -> dict[int, float]:
    """A figure by seed, of the cells that are there."""
    results = {seed: Cell(model, setting, seed).result() for seed in range(seeds)}
    found = {seed: figure(result, on) for seed, result in results.items() if result is not None}
    return {seed: value for seed, value in found.items() if value is not None}


def judge(question: Question) -> Iterator[Judged]:
    """Judge a question's claims by the results that are there.

    A claim of more, or of less loss, has held where the whole interval of the difference is above zero, and has not
    where all of it is below. A claim `within` a margin has held where the whole interval lies between the margins, and
    has not where all of it lies outside.
    """
    for claim in question.claims:
        for model in claim.get("models", question.settings):
            on, seeds = claim["measure"], question.seeds
            better, than = (values(model, claim[name], on, seeds) for name in ("better", "than"))
            sign = -1 if " nll" in on else 1
            pairs = [sign * (better[seed] - than[seed]) for seed in better.keys() & than.keys()]
            if pairs:
                difference = estimate(pairs)
                yield Judged(claim, model, difference, _verdict(claim, difference))


def _verdict(claim: dict[str, Any], difference: Estimate) -> str:
    if difference.reach is None:
        return UNCLEAR
    low, high = difference.mean - difference.reach, difference.mean + difference.reach
    if margin := claim.get("within"):
        inside, outside = -margin <= low and high <= margin, high < -margin or low > margin
    else:
        inside, outside = low > 0, high < 0
    return HELD if inside else NOT_HELD if outside else UNCLEAR
