# SPDX-License-Identifier: Apache-2.0
"""Differences of two results item by item: what both found hard, or easy, drops out.

All differences are the second result's figure less the first's: with a baseline first, a gain in a score is positive
and a gain in loss negative.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import NormalDist, fmean

from hylora_eval.estimates import degrees_of_freedom, mean_and_standard_error, t_chance, t_quantile

__all__ = ["LEVEL", "Difference", "holm", "paired_average", "paired_ratio", "paired_scores", "right_and_wrong"]

# A difference with a smaller p is clear.
LEVEL = 0.05
# Of 95 % intervals.
_NORMAL = NormalDist().inv_cdf(0.975)
# Bits up to which the distribution of a sum is counted out; beyond, with hundreds of samples, it is as good as normal.
_EXACT_BITS = 2**20
# Differences that have no step in common are flipped in every way up to so many; beyond, it is as good as normal too.
_FLIPPED = 14
# Points by which scores differ from rounding alone, and the share of a difference of losses that may be its error.
_ROUNDING = 1e-6
# Scores are whole multiples of one over up to so many parts: of 3, 4, 5 or 10 answers, and 60 holds all of these.
_PARTS = 60


@dataclass(frozen=True)
class Difference:
    """A figure of one result less that of another, from the same items.

    Attributes:
        mean: the difference: of losses in nats for each token, of scores in points (per cent).
        low: lower end of its 95 % interval.
        high: the upper end.
        p: chance of a difference at least so large, to either side, if there were none (two-sided).
        units: documents or samples it is from.
        method: "jackknife" (Student's t), "sign test", "mcnemar" (exact) or "sign flips" (exact where that can be
            counted).
        higher_is_better: whether more is better.
    """

    mean: float
    low: float
    high: float
    p: float
    units: int
    method: str
    higher_is_better: bool

    @property
    def better(self) -> bool | None:
        """Whether the second result is the better one; None where that is not clear (p at least `LEVEL`)."""
        return (self.mean > 0) == self.higher_is_better if self.p < LEVEL and self.mean else None


def paired_ratio(
    sums_a: Sequence[float],
    counts_a: Sequence[float],
    sums_b: Sequence[float],
    counts_b: Sequence[float],
    higher_is_better: bool = False,
) -> Difference:
    """Difference of two mean losses over the tokens of the same documents, or of two shares of items in them.

    The error is that of the jackknife over documents, with the degrees of freedom of the effective number of
    documents: intervals hold the difference about as often as they should with few and unequal documents too. Where
    all documents differ by the same for each item, that error is 0 and says too much: then only their number counts.
    p is the chance that so many lie to one side (the sign test), and the interval the normal one of that p.

    Args:
        sums_a: loss of each document under the first model, in nats, summed over its scored tokens.
        counts_a: these tokens.
        sums_b: likewise under the second model.
        counts_b: likewise.
        higher_is_better: whether the sums count what is right.

    Raises:
        ValueError: if the documents are not the same, or fewer than two.
    """
    if list(counts_a) != list(counts_b):
        raise ValueError("the documents are not the same: other numbers of tokens were scored in them")
    counts = [count for count in counts_a if count > 0]
    if len(counts) < 2:
        raise ValueError(f"{len(counts)} documents say nothing of how far others would be; at least 2 are needed")
    mean, error = mean_and_standard_error([b - a for a, b in zip(sums_a, sums_b, strict=True)], counts_a)
    if error > _ROUNDING * abs(mean):
        degrees = degrees_of_freedom(counts)
        method, reach, p = "jackknife", t_quantile(degrees) * error, t_chance(mean / error, degrees)
    elif mean:
        # Beyond a thousand documents a float has no smaller chance.
        method, p = "sign test", max(2 * 0.5 ** len(counts), 1e-300)
        reach = _NORMAL * abs(mean) / -NormalDist().inv_cdf(p / 2)
    else:
        method, reach, p = "jackknife", 0.0, 1.0
    return Difference(mean, mean - reach, mean + reach, p, len(counts), method, higher_is_better)


def paired_scores(scores_a: Sequence[float], scores_b: Sequence[float]) -> Difference:
    """Difference of the mean scores of the same samples.

    p is that of all ways to flip the signs of the samples' differences; of samples that are right or wrong, McNemar's
    exact test. The interval is Bonett and Price's, at which one more sample in favour of either counts, so that it has
    a width where few samples differ. Among partial scores these two differ as much as others do (the root of the mean
    square of differences that are not 0), and by 100 points where no sample differs.

    Args:
        scores_a: of each sample under the first model, from 0 to 100.
        scores_b: likewise under the second.

    Raises:
        ValueError: if there are no samples, or not as many of both.

    Source: D. G. Bonett and R. M. Price, Adjusted Wald confidence interval for a difference of binomial proportions
    based on paired data, J. Educ. Behav. Stat. 37(4), 2012; Q. McNemar, Psychometrika 12, 1947.
    """
    return paired_average([scores_a], [scores_b])


def paired_average(tasks_a: Sequence[Sequence[float]], tasks_b: Sequence[Sequence[float]]) -> Difference:
    """Difference of the plain means over tasks of their mean scores, each task's from the same samples.

    Args:
        tasks_a: for each task, the scores of its samples under the first model, from 0 to 100.
        tasks_b: likewise under the second.

    Raises:
        ValueError: as `paired_scores`.
    """
    samples = [len(scores) for scores in tasks_a]
    if not samples or 0 in samples or samples != [len(scores) for scores in tasks_b]:
        raise ValueError(
            f"{samples} scores and {[len(scores) for scores in tasks_b]} are not those of the same samples; one for "
            "each sample of at least one is needed"
        )
    total = sum(samples)
    # A sample counts by its share of the average: more in a task that has fewer of them.
    differences = [
        (b - a) * total / (len(samples) * len(first)) if abs(b - a) > _ROUNDING else 0.0
        for first, second in zip(tasks_a, tasks_b, strict=True)
        for a, b in zip(first, second, strict=True)
    ]
    mean, middle = fmean(differences), math.fsum(differences) / (total + 2)
    squares = [one * one for one in differences if one]
    square = (math.fsum(squares) + 2 * (fmean(squares) if squares else 100**2)) / (total + 2)
    reach = _NORMAL * math.sqrt((square - middle**2) / (total + 2))
    mcnemar = len(samples) == 1 and {*chain(*tasks_a, *tasks_b)} <= {0, 100}
    return Difference(
        mean,
        # The interval's middle lies nearer to 0, which may not leave the mean itself outside.
        low=max(-100.0, min(mean, middle - reach)),
        high=min(100.0, max(mean, middle + reach)),
        p=_sign_flips(differences),
        units=total,
        method="mcnemar" if mcnemar else "sign flips",
        higher_is_better=True,
    )


def right_and_wrong(scores_a: Sequence[float], scores_b: Sequence[float]) -> tuple[int, int, int, int]:
    """Samples that both have wholly right, the first alone, the second alone, and neither."""
    right = [(a >= 100, b >= 100) for a, b in zip(scores_a, scores_b, strict=True)]
    return tuple(right.count(outcome) for outcome in ((True, True), (True, False), (False, True), (False, False)))


def holm(chances: Iterable[float]) -> list[float]:
    """The p of several comparisons, corrected: that any is below a level is no more likely than of one alone.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6, 1979.
    """
    chances = list(chances)
    corrected, least = chances.copy(), 0.0
    for rank, index in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        least = max(least, min(1.0, (len(chances) - rank) * chances[index]))
        corrected[index] = least
    return corrected


def _sign_flips(differences: Sequence[float]) -> float:
    """Two-sided p of a sum among all sums that other signs would give, counted out where that is no great work."""
    differences = [one for one in differences if one]
    steps = _whole_steps(differences)
    if steps and sum(map(abs, steps)) * (len(steps) + 1) <= _EXACT_BITS:
        return _counted(abs(sum(steps)), list(map(abs, steps)))
    observed = abs(math.fsum(differences))
    if len(differences) <= _FLIPPED:
        sums = [0.0]
        for one in differences:
            sums = [so_far + flipped for so_far in sums for flipped in (one, -one)]
        return sum(abs(one) > observed - _ROUNDING for one in sums) / len(sums)
    if steps:
        # Sums lie two steps apart, and the normal distribution between them: half of that is for those as large.
        differences, observed = steps, max(0, abs(sum(steps)) - math.gcd(*steps))
    return math.erfc(observed / math.sqrt(2 * math.fsum(one * one for one in differences)))


def _counted(observed: int, sizes: Sequence[int]) -> float:
    """p of a sum of steps among the sums of steps of these sizes, up or down."""
    # One number for the whole distribution: its digits to the base of 2^bits say how many sets of steps make each sum.
    ways, bits = 1, len(sizes) + 1
    for size in sizes:
        ways += ways << (bits * size)
    # With all others negative, a set makes twice its sum less the total.
    tail = ways >> (bits * ((sum(sizes) + observed) // 2))
    # The sum of digits, by casting out; it is below the base.
    return min(1.0, 2 * (tail % (2**bits - 1)) / 2 ** len(sizes))


def _whole_steps(differences: Sequence[float]) -> list[int]:
    """Differences other than 0 as multiples of the largest step that has them all; nothing where none has."""
    distinct = set(differences)
    for parts in range(1, _PARTS + 1):
        steps = {one: one * parts / 100 for one in distinct}
        if all(abs(step) > 0.5 and abs(step - round(step)) < 1e-4 for step in steps.values()):
            return [round(steps[one]) for one in differences]
    return []
