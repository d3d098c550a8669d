# SPDX-License-Identifier: Apache-2.0
"""Whether a claim holds: differences between settings, in blocks of seeds.

Runs with one seed learn from the same rows in the same order and are measured on the same facts; each seed brings
others. So a figure is taken for the sum of what its setting, its seed and chance make of it (a randomised block
design), and chance is what remains over all settings of a question. That tells more of it than three seeds of two
settings could, and two that happen to differ by the same in every seed do not look certain. With two settings this is
the paired t test.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cells import Cell, Question

from hylora_eval.estimates import t_quantile

__all__ = ["HELD", "NOT_HELD", "UNCLEAR", "Judged", "clear_difference", "figure", "judge", "values"]

HELD, NOT_HELD, UNCLEAR = "held", "not held", "unclear"


@dataclass(frozen=True)
class Judged:
    """A claim about one model.

    Attributes:
        claim: as the question has it.
        model: it was tried on.
        difference: of the two settings' means; more is in the claim's favour.
        reach: half of its 95 % interval.
        verdict: "held", "not held" or "unclear".
    """

    claim: dict[str, Any]
    model: str
    difference: float
    reach: float
    verdict: str


def clear_difference(figures: Sequence[Sequence[float]]) -> float:
    """How far the means of two settings must lie apart: half of the 95 % interval of their difference.

    Args:
        figures: of each setting, by seed; at least two of both.
    """
    settings, seeds = len(figures), len(figures[0])
    of_settings, of_seeds = list(map(fmean, figures)), list(map(fmean, zip(*figures, strict=True)))
    remaining = sum(
        (value - of_setting - of_seed + fmean(of_settings)) ** 2
        for values, of_setting in zip(figures, of_settings, strict=True)
        for value, of_seed in zip(values, of_seeds, strict=True)
    )
    degrees = (settings - 1) * (seeds - 1)
    return t_quantile(degrees) * math.sqrt(2 / seeds * remaining / degrees)


def figure(result: dict[str, Any], on: str) -> float | None:
    """What a cell's result says, such as "full nll 4096"; the mean of all below it where that is several, and full
    attention's where a model has no "own". None where it was not measured."""
    way, *path = on.split()
    found: Any = result.get(way, result["full"] if way == "own" else None)
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return None if found is None else fmean(_leaves(found))


def _leaves(tree: Any) -> Iterator[float]:
    if isinstance(tree, dict):
        for branch in tree.values():
            yield from _leaves(branch)
    else:
        yield tree


def values(model: str, settings: Iterable[str], on: str, seeds: int) -> dict[str, list[float]]:
    """A figure by setting and seed, of the settings of which all seeds are there."""
    found = {}
    for setting in settings:
        results = [Cell(model, setting, seed).result() for seed in range(seeds)]
        if None not in results:
            figures = [figure(result, on) for result in results]
            if None not in figures:
                found[setting] = figures
    return found


def judge(question: Question) -> Iterator[Judged]:
    """Judge a question's claims, of which all results are there.

    A claim of more, or of less loss, has held where the whole interval of the difference is above zero, and has not
    where all of it is below. That one is as good as another but for a margin, `as_good_within`, has held where the
    whole interval is above minus the margin, and has not where all of it is below. That two are `alike_within` a
    margin has held where the whole interval lies between the margins, and has not where all of it lies outside.
    """
    for claim in question.claims:
        on = claim["measure"]
        for model in claim.get("models", question.settings):
            found = values(model, question.settings[model], on, question.seeds)
            if {claim["better"], claim["than"]} <= found.keys():
                sign = -1 if " nll" in on else 1
                difference = sign * (fmean(found[claim["better"]]) - fmean(found[claim["than"]]))
                reach = clear_difference(list(found.values()))
                yield Judged(claim, model, difference, reach, _verdict(claim, difference - reach, difference + reach))


def _verdict(claim: dict[str, Any], low: float, high: float) -> str:
    if margin := claim.get("alike_within"):
        inside, outside = -margin < low and high < margin, high < -margin or low > margin
    else:
        worst = -claim.get("as_good_within", 0)
        inside, outside = low > worst, high < worst
    return HELD if inside else NOT_HELD if outside else UNCLEAR
