# SPDX-License-Identifier: Apache-2.0
"""Contenders that take turns: times, their spread, and ratios within a round.

One round times each contender once, and a ratio is formed of two times of the same round, so that a machine that slows
down slows both. Each round begins with the next contender, so that none is always the first or the last. What runs
out of memory leaves the point it ran out at, and nothing else.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from hylora_eval.results import PlainJson
from hylora_eval.runtime.memory import peak_memory

__all__ = ["Spread", "Timing", "measure", "stopwatch"]

# Makes a run ready, outside the time: called with contender and length, it gives what is timed.
Prepare = Callable[[str, int], Callable[[], object]]
T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """The median over rounds, and how far they lie apart.

    Attributes:
        median: of the values.
        smallest: of them.
        largest: of them.
        low: lower end of a 95 % interval of the median, whatever the distribution of the values: those two of them, as
            far inside as can be, between which it lies in at least 95 of 100 cases. None for fewer than 6 values,
            which have no two such.
        high: the upper end.
    """

    median: float
    smallest: float
    largest: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of a sequence of at least one value."""
        ordered = sorted(values)
        # Fewer than so many values lie below the median in less than one of 40 cases, and likewise above.
        beyond, cases = 0, 1
        while 40 * cases <= 2 ** len(ordered):
            beyond += 1
            cases += math.comb(len(ordered), beyond)
        interval = (ordered[beyond - 1], ordered[-beyond]) if beyond else (None, None)
        return cls(statistics.median(ordered), ordered[0], ordered[-1], *interval)


@dataclass(frozen=True)
class Timing(PlainJson):
    """One contender at one length.

    Attributes:
        contender: its name.
        length: context length in tokens.
        seconds: of one run (or of one of its repetitions), for each round; empty where it ran out of memory.
        time: their spread.
        speedup: seconds of the baseline over those of this contender, by rounds; None where either has none.
        peak_bytes: most memory of a run beyond weights and whatever else was there before.
        error: "out of memory" or None.
    """

    contender: str
    length: int
    seconds: tuple[float, ...] = ()
    time: Spread | None = None
    speedup: Spread | None = None
    peak_bytes: int | None = None
    error: str | None = None


def stopwatch(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that `run` takes: by CUDA events on a GPU, by the wall clock elsewhere."""
    if device.type == "cuda":
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(stop) / 1000
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def measure(
    prepare: Prepare,
    contenders: Iterable[str],
    length: int,
    *,
    device: torch.device,
    rounds: int = 6,
    warmup: int = 1,
    repetitions: int = 1,
    baseline: str | None = None,
    timed: Callable[[Callable[[], object], torch.device], float] = stopwatch,
    progress: Callable[[int, int], None] | None = None,
) -> list[Timing]:
    """Time contenders against each other at one length.

    Args:
        prepare: called anew before each run, outside the time, with a contender and the length.
        contenders: their names; each round times them in this order, and begins one further on than the last.
        length: context length in tokens.
        device: where they run.
        rounds: that are timed.
        warmup: rounds before those, which are not.
        repetitions: what a run does so many times (tokens decoded), by which times are divided.
        baseline: the contender that speed-ups refer to.
        timed: gives the seconds of a run.
        progress: called with (runs done, runs in all).

    Returns:
        A timing for each contender, in their order.

    Raises:
        ValueError: if `rounds` is below 1 or `warmup` below 0, or a time is no finite number above 0, from which no
            ratio could be formed.
    """
    if rounds < 1 or warmup < 0:
        raise ValueError(f"rounds={rounds} must be at least 1, and warmup={warmup} at least 0")
    contenders = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, int] = {}
    failed: set[str] = set()
    total = (warmup + rounds + 1) * len(contenders)
    # The last round measures memory, which may slow a run down.
    for turn in range(-warmup, rounds + 1):
        first = turn % len(contenders)
        for number, name in enumerate(contenders[first:] + contenders[:first]):
            if name not in failed:
                if turn == rounds:
                    result = _attempt(lambda name=name: peak_memory(lambda: prepare(name, length), device))
                else:
                    result = _attempt(lambda name=name: timed(prepare(name, length), device) / repetitions)
                if result is None:
                    failed.add(name)
                elif turn == rounds:
                    peaks[name] = result
                elif not 0 < result < math.inf:
                    raise ValueError(f"{name!r} at length {length} took {result} s by the clock: time more at once")
                elif turn >= 0:
                    seconds[name].append(result)
            if progress is not None:
                progress((turn + warmup) * len(contenders) + number + 1, total)
    against = [] if baseline is None or baseline in failed else seconds[baseline]
    return [
        Timing(name, length, error="out of memory")
        if name in failed
        else Timing(
            name,
            length,
            tuple(seconds[name]),
            Spread.of(seconds[name]),
            Spread.of([base / own for base, own in zip(against, seconds[name], strict=True)]) if against else None,
            peaks[name],
        )
        for name in contenders
    ]


def _attempt(run: Callable[[], T]) -> T | None:
    """What a run gives, or None where it ran out of memory."""
    try:
        return run()
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
    # Only out here do no frames of the failed run hold its tensors.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _is_out_of_memory(error: Exception) -> bool:
    # The CPU's allocator raises a plain RuntimeError.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)
