# SPDX-License-Identifier: Apache-2.0
"""Progress in a log, which is read and not watched: when it gets a line, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

__all__ = ["Pace"]

# Of seconds between two lines. Soon at first: whoever starts something wants to see it go well.
_LEAST, _MOST = 5.0, 600.0
# Later a line says what the one before said, until this share of the time has passed anew.
_SHARE = 0.05


class Pace:
    """Tells when a line is due: a dozen in the first minute, a thousand in a week.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = self._line = clock()
        # What was done when, at first: before it comes what takes its time once.
        self._first: tuple[float, float] | None = None

    def is_due(self, done: float, total: float | None) -> bool:
        """Whether to print a line now, as the last one in any case; the next is counted from it."""
        now = self._clock()
        self._first = self._first or (done, now)
        if done != total and now - self._line < min(max(_LEAST, _SHARE * (now - self._begun)), _MOST):
            return False
        self._line = now
        return True

    def left(self, done: float, total: float | None) -> str:
        """How long the rest takes at the speed so far, as `", 1:02:03 left"`; nothing where nobody can tell."""
        before, since = self._first or (done, 0.0)
        if total is None or not before < done < total:
            return ""
        seconds = (self._clock() - since) / (done - before) * (total - done)
        return f", {timedelta(seconds=round(seconds))} left"
