# SPDX-License-Identifier: Apache-2.0
"""Whether what a rule finds is more than chance finds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hylora_eval.estimates import share_interval

__all__ = ["VERDICTS", "hit_interval", "in_words", "judge"]

VERDICTS = ("above chance", "not to be told from chance", "below chance")


def hit_interval(found: Mapping[str, Any], samples: int) -> tuple[float, float] | None:
    """The 95 % interval of a hit rate, from 0 to 1, by what a result says of it.

    Args:
        found: "hit_rate", "standard_error" and "queries" or "pairs", as in `RuleResult` and `AttendedHits`.
        samples: that were read.

    Returns:
        The interval; None where there were no needles.
    """
    if found["hit_rate"] is None:
        return None
    items = found["pairs"] if "pairs" in found else found["queries"]
    return share_interval(found["hit_rate"], found["standard_error"], samples, max(items, samples))


def judge(interval: Sequence[float], chance: float) -> str:
    """One of `VERDICTS` on a hit rate, by its interval; `chance` is the hit rate of random blocks."""
    low, high = interval
    return VERDICTS[0] if low > chance else VERDICTS[2] if high < chance else VERDICTS[1]


def in_words(judged: Iterable[tuple[str, str]], samples: int) -> str:
    """A sentence on the rules by their verdicts.

    Args:
        judged: names of rules, each with one of `VERDICTS`.
        samples: that were read.
    """
    names: dict[str, list[str]] = {}
    for name, verdict in judged:
        names.setdefault(verdict, []).append(name)
    parts = [f"{verdict}: {', '.join(names[verdict])}" for verdict in VERDICTS if verdict in names]
    return f"By {samples} {'sample' if samples == 1 else 'samples'} (95 % intervals), {'; '.join(parts)}."
