# SPDX-License-Identifier: Apache-2.0
"""Whether what a rule finds is more than chance finds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hylora_eval.estimates import share_interval
from hylora_eval.wording import number_of

__all__ = ["VERDICTS", "counted_samples", "hit_interval", "in_words", "judge"]

VERDICTS = ("above chance", "not to be told from chance", "below chance")


def counted_samples(found: Mapping[str, Any], samples: int) -> int:
    """Samples with needles of which a result tells the hit rate.

    Args:
        found: as for `hit_interval`; without "samples" every sample that was read counts, but none without an item.
        samples: that were read.
    """
    return found.get("samples", min(samples, _items(found)))


def hit_interval(found: Mapping[str, Any], samples: int) -> tuple[float, float] | None:
    """The 95 % interval of a hit rate, from 0 to 1, by what a result says of it.

    Args:
        found: "hit_rate", "standard_error", "samples" and "queries" or "pairs", as in `RuleResult` and `AttendedHits`.
        samples: that were read.

    Returns:
        The interval; None where there were no needles.
    """
    if found["hit_rate"] is None:
        return None
    return share_interval(found["hit_rate"], found["standard_error"], counted_samples(found, samples), _items(found))


def _items(found: Mapping[str, Any]) -> int:
    return found["pairs"] if "pairs" in found else found["queries"]


def judge(interval: Sequence[float], chance: float) -> str:
    """One of `VERDICTS` on a hit rate, by its interval; `chance` is the hit rate of random blocks."""
    low, high = interval
    return VERDICTS[0] if low > chance else VERDICTS[2] if high < chance else VERDICTS[1]


def in_words(judged: Iterable[tuple[str, str]], samples: int) -> str:
    """Sentences on the rules by their verdicts.

    Args:
        judged: names of rules, each with one of `VERDICTS`; a name may hold commas.
        samples: by which they are judged.
    """
    names: dict[str, list[str]] = {}
    for name, verdict in judged:
        names.setdefault(verdict, []).append(name)
    parts = [f"{verdict.capitalize()}: {'; '.join(names[verdict])}." for verdict in VERDICTS if verdict in names]
    return f"{' '.join(parts)} By 95 % intervals over {number_of(samples, 'sample')}."
