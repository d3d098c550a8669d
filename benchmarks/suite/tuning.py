# SPDX-License-Identifier: Apache-2.0
"""The search for a kernel's best launch, and the files in which launches are kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from hylora_kernels.triton_backend.launch import Launch

# Largest and smallest value of each field; all but the stages are powers of two.
_BOUNDS = {"block_m": (16, 512), "block_n": (16, 512), "num_warps": (2, 8), "num_stages": (1, 5)}
# A launch must be faster by so much to count as better than what was there: less is noise.
_GAIN = 0.01


def neighbours(launch: Launch) -> Iterator[Launch]:
    """Launches that differ in one step of one field."""
    for field, (least, most) in _BOUNDS.items():
        value = getattr(launch, field)
        steps = (value - 1, value + 1) if field == "num_stages" else (value // 2, value * 2)
        for step in steps:
            if least <= step <= most:
                yield launch._replace(**{field: step})


def climb(
    start: Launch, seconds_of: Callable[[Launch], float | None], spent: Callable[[], bool]
) -> dict[Launch, float]:
    """Go from a launch to its best neighbour until none is better, or the time is spent.

    Args:
        start: where to begin.
        seconds_of: a launch's time, or None where it fails or is wrong.
        spent: whether to stop.

    Returns:
        All times, the best launch first.
    """
    tried = {start: seconds_of(start)}
    if tried[start] is None:
        raise ValueError(f"the kept launch {start} fails or is wrong")
    best, before = start, None
    while best != before:
        before = best
        for launch in neighbours(before):
            if launch in tried or spent():
                continue
            tried[launch] = seconds = seconds_of(launch)
            if seconds is not None and seconds < tried[best] * (1 - _GAIN):
                best = launch
    times = {launch: seconds for launch, seconds in tried.items() if seconds is not None}
    return dict(sorted(times.items(), key=lambda item: (item[0] != best, item[1])))


def keep(folder: Path, kernel: str, place: tuple[str, str, str], launch: Launch) -> None:
    """Write a launch into its kernel's file.

    Args:
        folder: of the files.
        kernel: its name.
        place: architecture ("sm_90"), width of numbers ("half") and head dimension ("128").
        launch: to keep.
    """
    path = folder / f"{kernel}.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    architecture, width, head_dim = place
    content.setdefault(architecture, {}).setdefault(width, {})[head_dim] = launch._asdict()
    content[architecture][width] = dict(sorted(content[architecture][width].items(), key=lambda item: int(item[0])))
    # One launch to a line.
    text = re.sub(
        r"\{\s+([^{}]+?)\s+\}", lambda found: "{" + " ".join(found[1].split()) + "}", json.dumps(content, indent=2)
    )
    path.write_text(text + "\n")
