# SPDX-License-Identifier: Apache-2.0
"""Times of kernels under other launches, each inside the smallest computation that runs the kernel."""

from __future__ import annotations

from statistics import median
from typing import Any

import torch

from hylora_kernels.triton_backend import launch as launches
from hylora_kernels.triton_backend.launch import Launch

from .candidates import CANDIDATES
from .results import Results
from .runs import random_tensors
from .sizes import Sizes
from .stages import Stage, attention_stages
from .timing import Budget, captured, cold_stopwatch

_REPETITIONS = 15


class WrongResults(Exception):
    """Under a launch, results are not those of the kept one."""


def try_candidates(sizes: Sizes, results: Results, budget: Budget) -> bool:
    """Time the listed launches of the kernels that take most of the time, for all heads.

    Returns:
        Whether nothing failed; a launch that asks for too much of the device is a failure, which may be expected.
    """
    section = results.start("tune", settings=sizes.to_dict(), points=[])
    options, device = sizes.options, torch.device(sizes.options.device)
    for heads in sizes.heads:
        with section.attempt(heads=heads):
            tensors = random_tensors(*heads, sizes.kernel_length, options.head_dim, sizes.dtype, options.device)
            stages = attention_stages(tensors, options.span)
            for kernel in CANDIDATES:
                kept = launches.launch_for(kernel, options.head_dim, sizes.dtype, device)
                where = place_of(stages[kernel], device)
                tried = dict.fromkeys((kept, *CANDIDATES[kernel]))
                places = ({"heads": heads, "kernel": kernel, "launch": launch._asdict()} for launch in tried)
                clock = LaunchClock(kernel, stages[kernel], device, _REPETITIONS if device.type == "cuda" else 1)
                for place in section.todo(places, budget):
                    with section.attempt(**place):
                        launch = Launch(**place["launch"])
                        point = {**place, "place": where, "kept": launch == kept, "seconds": clock.seconds(launch)}
                        section.add("points", point)
                        print(*heads, kernel, tuple(launch), f"{1e3 * point['seconds']:.4g} ms", flush=True)
    return not section.failed


class LaunchClock:
    """Times a computation under launches of one of its kernels.

    Args:
        kernel: the name of its file of launches.
        stage: the computation.
        device: where it runs.
        repetitions: of which the median is taken.
    """

    def __init__(self, kernel: str, stage: Stage, device: torch.device, repetitions: int) -> None:
        self._kernel, self._stage, self._device, self._repetitions = kernel, stage, device, repetitions
        self._timed = cold_stopwatch(device)
        self._expected = None

    def seconds(self, launch: Launch) -> float:
        """Under this launch.

        Raises:
            WrongResults: they are not those of the kept launch.
        """
        if self._expected is None:
            self._expected = self._stage.run()
        with launches.forced(**{self._kernel: launch}):
            if not alike(self._stage.run(), self._expected):
                raise WrongResults(
                    f"{self._kernel} gives other results under {tuple(launch)} than under the kept launch"
                )
            run = captured(self._stage.run, self._device) if self._stage.captured else self._stage.run
            return median(self._timed(run, self._device) for _ in range(self._repetitions))


def alike(results: Any, expected: Any) -> bool:
    """Whether results, one tensor or several, are the same but for rounding."""
    if isinstance(results, torch.Tensor):
        results, expected = (results,), (expected,)
    for a, e in zip(results, expected, strict=True):
        if not a.is_floating_point():
            # Sums in another order may rank near ties otherwise.
            if (a != e).double().mean() > 2e-3:
                return False
        elif not float((a.double() - e.double()).norm()) <= 1e-2 * float(e.double().norm()):
            return False
    return True


def place_of(stage: Stage, device: torch.device) -> tuple[str, str, str]:
    """Where a kernel's file lists the launch of a computation: architecture, width of numbers, head dimension."""
    architecture = "sm_{}{}".format(*launches.capability(device))
    listed = next(listed for listed in (64, 128, 256) if listed >= stage.head_dim)
    return architecture, "half" if stage.dtype.itemsize == 2 else "single", str(listed)
