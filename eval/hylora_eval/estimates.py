# SPDX-License-Identifier: Apache-2.0
"""Means, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist, fmean, stdev
from typing import Any, TypeVar

from hylora_eval.wording import number_of

__all__ = [
    "cautions",
    "complete_groups",
    "degrees_of_freedom",
    "mean_and_standard_error",
    "mean_of_estimates",
    "percent_interval",
    "resolution",
    "share_interval",
    "t_chance",
    "t_quantile",
    "wilson",
]

# Below so many documents, or with more of the tokens in one, an interval is rough.
FEW_DOCUMENTS, LARGE_SHARE = 10, 0.3
# All intervals are of 95 %.
_TAIL = 0.025
_NORMAL = NormalDist().inv_cdf(1 - _TAIL)
# Of an angle, in the integral of Student's t.
_PIECES = 300

T = TypeVar("T")


def mean_of_estimates(values: Sequence[float], errors: Sequence[float | None]) -> tuple[float, float | None]:
    """The plain mean of independent estimates, and its standard error; None where one of theirs is not known."""
    return fmean(values), None if None in errors else math.hypot(*errors) / len(errors)


def complete_groups(groups: Mapping[str, Sequence[str]], found: Mapping[str, T]) -> dict[str, list[T]]:
    """What was found for the members of each group; groups of which a member is missing are left out."""
    return {
        name: [found[member] for member in members]
        for name, members in groups.items()
        if all(member in found for member in members)
    }


def mean_and_standard_error(sums: Sequence[float], counts: Sequence[float]) -> tuple[float, float | None]:
    """Mean over all items of all documents, and its standard error with documents as the sampling unit.

    Tokens of one document resemble each other, so an error over tokens would be too small. The mean is a ratio of two
    sums over documents. Its error is that of the jackknife, from the means without each document in turn: the usual
    linearised one is too small where documents are few and unequal.

    Args:
        sums: sum of the items of each document.
        counts: items of each document; documents without any are left out.

    Returns:
        The mean, and its standard error (None for a single document).

    Raises:
        ValueError: if no document has an item.
    """
    known = [(float(part), float(count)) for part, count in zip(sums, counts, strict=True) if count > 0]
    if not known:
        raise ValueError("there is nothing to average: no document has an item")
    total, items = (math.fsum(column) for column in zip(*known, strict=True))
    if len(known) == 1:
        return total / items, None
    without = [(total - part) / (items - count) for part, count in known]
    return total / items, (len(known) - 1) / math.sqrt(len(known)) * stdev(without)


def degrees_of_freedom(counts: Sequence[float]) -> float:
    """Of the standard error of a mean over documents with so many items: Kish's effective number of documents, less 1.

    Documents of one size count one each. One that holds most of the items leaves the others little to say on the
    error: with as many degrees as documents, intervals over unequal documents hold the mean too seldom.

    Source: L. Kish, Survey Sampling (1965), section 8.2.
    """
    return max(1.0, sum(counts) ** 2 / sum(count**2 for count in counts) - 1)


@lru_cache
def t_quantile(degrees: float) -> float:
    """How many standard errors a 95 % interval reaches to each side, for so many degrees of freedom (Student's t)."""
    # With one degree it is 12.7062, with ever more of them the normal one.
    low, high = _NORMAL, 12.71
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if t_chance(middle, degrees) < 2 * _TAIL else (middle, high)
    return high


def t_chance(t: float, degrees: float) -> float:
    """Chance that Student's t lies at least so far from 0, to either side: the two-sided p.

    Args:
        t: a mean in its standard errors.
        degrees: of freedom, at least 1; they need not be whole.
    """
    if degrees > 1000:
        return math.erfc(abs(t) / math.sqrt(2))
    # With t = tan(angle) sqrt(degrees) the density is a power of the cosine: Simpson's rule up to a right angle.
    start = math.atan2(abs(t), math.sqrt(degrees))
    step = (math.pi / 2 - start) / _PIECES
    heights = (
        (4 if index % 2 else 2) * math.cos(start + index * step) ** (degrees - 1) for index in range(1, _PIECES)
    )
    ends = math.cos(start) ** (degrees - 1) + math.cos(math.pi / 2) ** (degrees - 1)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    return min(1.0, 2 * scale * (ends + math.fsum(heights)) * step / 3)


def wilson(share: float, samples: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of right samples; it has a width at 0 and at 1 as well.

    It holds for a mean of partial scores from 0 to 1 too, for nothing between them varies more than right and wrong
    with the same mean: there it is wider than need be.

    Args:
        share: from 0 to 1.
        samples: independent ones; a number of them that is as good may be no whole one.
    """
    square = _NORMAL**2 / samples
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    # Rounding may not leave the share itself outside.
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def percent_interval(score: float, samples: float) -> tuple[float, float]:
    """The same for a score in per cent."""
    low, high = wilson(min(max(score / 100, 0.0), 1.0), samples)
    return 100 * low, 100 * high


def share_interval(share: float, error: float | None, units: int, items: int) -> tuple[float, float]:
    """Interval of a share of items that come in units, such as needles in documents.

    Wilson's, with as many independent items as would give that error, and fewer for few units, as Student's t asks
    (Korn and Graubard). Near 0 and 1 the error itself is a matter of luck: a few rare hits say little on how many more
    other units hold. There the interval reaches as far as where nothing, or everything, is found in units that count
    once each, so that few hits never look surer than none.

    Args:
        share: from 0 to 1.
        error: its standard error over units, None for one unit.
        units: that have items.
        items: of all units; there can be no more independent ones.
    """
    if error is None:
        effective = units
    else:
        effective = min(items, share * (1 - share) / error**2) if error else items
        effective *= (_NORMAL / t_quantile(units - 1)) ** 2
    low, high = wilson(share, effective)
    return min(low, wilson(1, units)[0]), max(high, wilson(0, units)[1])


def resolution(samples: int) -> str:
    """In words, what scores of so many samples can tell."""
    if wilson(0, samples)[1] >= wilson(1, samples)[0]:
        return f"With {number_of(samples, 'sample')} even 0 and 100 % cannot be told apart."
    low, high = wilson(0.5, samples)
    return (
        f"With {samples} samples a score near 50 is known to {100 * (high - low) / 2:.0f} points either way; two "
        "scores whose intervals meet may be equal."
    )


def cautions(result: Mapping[str, Any]) -> list[str]:
    """What to beware of in a perplexity and its interval, in sentences.

    Args:
        result: a `PerplexityResult` as plain JSON types.
    """
    if result["mode"] == "longlora" or result["documents"] == 1:
        return ["Nothing says how far other text would be from this: the documents count as one."]
    found = []
    if result["documents"] < FEW_DOCUMENTS:
        found.append(
            f"Only {result['documents']} documents: the interval says how far others like these would be, as well as "
            "so few can tell."
        )
    if result["largest_document"] > LARGE_SHARE:
        found.append(
            f"One document holds {100 * result['largest_document']:.0f} % of the tokens: the perplexity is mostly its "
            "own, and the interval is rough. --max-tokens keeps the beginning of each."
        )
    return found
