# SPDX-License-Identifier: Apache-2.0
"""Whether one number is clearly another: by their documents or samples where files keep them, else by their errors."""

from __future__ import annotations

from hylora_eval.compare import LEVEL, Difference, Unpaired
from hylora_eval.report.measurements import Measurement

__all__ = ["is_clear", "is_clear_difference"]

# Standard errors to either side of a value, for 95 %.
_ERRORS = 1.96
# Kinds whose errors are standard deviations over seeds.
_OVER_SEEDS = ("training", "images", "ratio", "per cent", "count")


def is_clear(one: Measurement, other: Measurement) -> bool:
    """Whether two finite numbers of the same thing differ by more than chance.

    They do where their ranges do not meet: intervals of 95 %, the spread of rounds, a standard deviation over seeds to
    either side; a number of which no error is known counts as exact. Where they meet, the difference document by
    document or sample by sample decides, if both files keep what it needs.
    """
    (low, high), (other_low, other_high) = _range(one), _range(other)
    if high < other_low or other_high < low:
        return True
    return None not in (one.figure, other.figure) and is_clear_difference(one.figure.less(other.figure))


def is_clear_difference(found: Difference | Unpaired) -> bool:
    """Whether a difference is one that chance would seldom make."""
    if isinstance(found, Difference):
        return found.p < LEVEL
    return found.mean is not None and not found.low <= 0 <= found.high


def _range(one: Measurement) -> tuple[float, float]:
    if found := one.interval or one.spread:
        return found
    reach = (one.error or 0.0) * (1 if one.kind in _OVER_SEEDS else _ERRORS)
    return one.value - reach, one.value + reach
