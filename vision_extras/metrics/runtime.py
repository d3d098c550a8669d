# SPDX-License-Identifier: Apache-2.0
"""How long things take beside each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["interleaved"]


def interleaved(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds that each of some works takes in each of some rounds.

    In a round all of them take turns, in every other one backwards, so that whatever else the machine does meets them
    all: ratios within a round hold where times do not.

    Args:
        works: by name; each is done once more before, when nobody looks at the clock.
        rounds: how many.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for number in range(rounds):
        for name in sorted(works, reverse=bool(number % 2)):
            start = time.perf_counter()
            works[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds
