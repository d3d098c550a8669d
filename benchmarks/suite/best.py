# SPDX-License-Identifier: Apache-2.0
"""Which of the launches that were tried is best."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any

# A launch must be faster by so much to count as better than what was there: less is noise.
GAIN = 0.01


def best_launches(points: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """For each kernel the launch that is fastest on average over the heads that the kept one was timed for.

    One that is slower for any of them, that was not timed for all of them, or that gains no more than noise is passed
    over; where all others are, it is the kept one. The item's "timed" says which heads these are.

    Args:
        points: of `try_candidates`.
    """
    for kernel in dict.fromkeys(point["kernel"] for point in points):
        own = [point for point in points if point["kernel"] == kernel]
        kept = {tuple(point["heads"]): point["seconds"] for point in own if point["kept"]}
        found = []
        for launch in dict.fromkeys(tuple(point["launch"].items()) for point in own):
            times = {tuple(p["heads"]): p["seconds"] for p in own if tuple(p["launch"].items()) == launch}
            if kept and times.keys() >= kept.keys():
                gains = [kept[heads] / times[heads] for heads in kept]
                if times == kept or min(gains) >= 1 and fmean(gains) > 1 + GAIN:
                    found.append((fmean(gains), dict(launch)))
        if found:
            gain, launch = max(found, key=lambda item: item[0])
            timed = [{"heads": list(heads)} for heads in kept]
            yield {"kernel": kernel, "place": own[0]["place"], "launch": launch, "gain": gain, "timed": timed}
