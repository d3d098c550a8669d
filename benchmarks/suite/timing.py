# SPDX-License-Identifier: Apache-2.0
"""Clocks for a GPU and a CPU, and the time a part of the benchmarks may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

from hylora_eval.runtime.rounds import measure, stopwatch

Clock = Callable[[Callable[[], object], torch.device], float]


class Budget:
    """Seconds that run out."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()

    @property
    def spent(self) -> bool:
        """Whether there are none."""
        return self.left <= 0


def cold_stopwatch(device: torch.device) -> Clock:
    """A stopwatch before whose start a GPU's L2 cache is overwritten; on a CPU the wall clock.

    The overwriting also keeps the GPU busy while the first kernels of the run are launched, so that the time is the
    device's and not that of the host's first call.
    """
    if device.type != "cuda":
        return stopwatch
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    flush = torch.empty(max(4 * cache, 1 << 28), dtype=torch.int8, device=device)

    def timed(run: Callable[[], object], device: torch.device) -> float:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        flush.zero_()
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(stop) / 1000

    return timed


def take_turns(
    prepare: Callable[[str], Callable[[], object]],
    contenders: Iterable[str],
    place: dict,
    timed: Clock,
    device: torch.device,
    rounds: int,
) -> list[Any]:
    """Time contenders against each other, and against "full" if it is one of them.

    Args:
        prepare: gives what is timed of a contender.
        contenders: their names.
        place: what the times are of, with its "length" in tokens.
        timed: gives the seconds of a run.
        device: where they run.
        rounds: in each of which all are timed once.

    Returns:
        A measurement of `hylora_eval.runtime` for each contender.
    """
    names, length = list(contenders), place["length"]
    baseline = "full" if "full" in names else None
    found = measure(
        lambda name, _: prepare(name), names, length, device=device, rounds=rounds, baseline=baseline, timed=timed
    )
    times = {point.contender: f"{1e3 * point.time.median:.3g}" if point.time else point.error for point in found}
    print(*place.values(), f"ms: {times}", flush=True)
    return found


def captured(step: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The step as one graph, on a GPU."""
    if device.type != "cuda":
        return step
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    # The graph knows addresses alone: whoever replays it must hold the step, which holds what lies there.
    return partial(_replay, graph, step)


def _replay(graph: torch.cuda.CUDAGraph, step: Callable[[], object]) -> None:
    graph.replay()
