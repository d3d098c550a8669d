# SPDX-License-Identifier: Apache-2.0
"""How long a context fits."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["GRID", "longest_context", "longest_tried"]

# Tokens; contexts that are looked for are multiples.
GRID = 1024
# Few have documents that long.
_LONGEST = 1 << 18
# A step at so many times the context takes so many times longer to try, where the loss comes in slices.
_REACH = 16


def longest_tried(planned: int) -> int:
    """The longest context that is looked for, in tokens, where a context of `planned` tokens is asked about."""
    return max(planned, min(_LONGEST, _REACH * planned))


def longest_context(bytes_at: Callable[[int], int], resident: int, limit: int, start: int, longest: int) -> int:
    """The longest context whose memory stays within a limit.

    Memory is close to a straight line in the length, and what is there without any tokens is known. So the next length
    to try is read off the line through two lengths, until one fits and 6 % more does not, or would not by that line.

    Args:
        bytes_at: memory of a context; grows with it.
        resident: bytes before there is a token, within the limit.
        limit: bytes.
        start: tokens to begin with.
        longest: tokens beyond which nothing is tried.

    Returns:
        Tokens; 0 if none of `GRID` or more was found, and `longest` where that fits.
    """
    sizes = {0: resident}
    fits, exceeds, guess = 0, None, start

    def at_the_limit(other: int) -> int:
        """Where the line through what fits and another length meets the limit."""
        slope = (sizes[other] - sizes[fits]) / (other - fits)
        return fits + (int((limit - sizes[fits]) / slope) if slope > 0 else longest)

    while fits < longest and (exceeds is None or exceeds - fits > _step(fits)):
        sizes[guess] = bytes_at(guess)
        if sizes[guess] <= limit:
            fits = guess
        else:
            exceeds = guess
        nearest = min(sizes.keys() - {fits}, key=lambda tried: abs(tried - fits))
        guess = at_the_limit(nearest)
        if 0 < nearest < fits and guess - fits <= _step(fits):
            break
        if exceeds is not None and guess >= exceeds:
            guess = at_the_limit(exceeds)
        guess = min(max(guess // GRID * GRID, fits + _step(fits)), longest)
    return fits


def _step(fits: int) -> int:
    """Tokens that make a difference worth a try."""
    return max(GRID, fits // 16)
