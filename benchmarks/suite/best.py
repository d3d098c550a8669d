# SPDX-License-Identifier: Apache-2.0
"""Which of the launches that were tried is best."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# A launch must be faster by so much to count as better than what was there: less is noise.
GAIN = 0.01


def best_launches(points: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """For each kernel the launch that is fastest over all heads, if it gains more than noise; else the kept one.

    Args:
        points: of `try_candidates`; a launch that was not timed for all heads that the kept one was is passed over.
    """
    for kernel in dict.fromkeys(point["kernel"] for point in points):
        own = [point for point in points if point["kernel"] == kernel]
        kept = {tuple(point["heads"]): point["seconds"] for point in own if point["kept"]}
        found = []
        for launch in dict.fromkeys(tuple(point["launch"].items()) for point in own):
            times = {tuple(p["heads"]): p["seconds"] for p in own if tuple(p["launch"].items()) == launch}
            if kept and times.keys() >= kept.keys():
                gain = sum(kept[heads] / times[heads] for heads in kept) / len(kept)
                found.append((gain if gain > 1 + GAIN or times == kept else 0.0, dict(launch)))
        if found:
            gain, launch = max(found, key=lambda item: item[0])
            yield {"kernel": kernel, "place": own[0]["place"], "launch": launch, "gain": gain}
