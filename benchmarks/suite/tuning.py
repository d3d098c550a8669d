# SPDX-License-Identifier: Apache-2.0
"""Times of kernels under other launches, each inside the smallest computation that runs the kernel.

And of a whole pass with own chunks by a library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch

from hylora_kernels import span_attention
from hylora_kernels.triton_backend import launch as launches
from hylora_kernels.triton_backend import own_chunks
from hylora_kernels.triton_backend.launch import Launch

from .candidates import CANDIDATES
from .foreign import usable
from .results import Results, Section
from .runs import output_and_gradients, random_tensors
from .sizes import Sizes
from .stages import Stage, attention_stages
from .timing import Budget, captured, cold_stopwatch

# What a file keeps: a launch, or what computes own chunks.
Setting = launches.Launch | own_chunks.Choice
_REPETITIONS = 15


class WrongResults(Exception):
    """Under a setting, results are not those of the kept one."""


def try_candidates(sizes: Sizes, results: Results, budget: Budget) -> bool:
    """Time a whole pass with own chunks by each library that can compute them, then the listed launches of the kernels
    that take most of the time; all for all heads.

    Returns:
        Whether nothing failed; a launch that asks for too much of the device is a failure, which may be expected.
    """
    libraries = usable(results.data.get("own chunks by a library", {}).get("lines", []))
    section = results.start("tune", settings=sizes.to_dict(), points=[])
    for heads in sizes.heads if libraries else ():
        with section.attempt(heads=heads, kernel="own_chunks"):
            _try(_own_chunks(libraries, sizes, heads), sizes, heads, section, budget)
    for heads in sizes.heads:
        with section.attempt(heads=heads):
            for trial in _launches(sizes, heads):
                _try(trial, sizes, heads, section, budget)
    return not section.failed


class _Trial(NamedTuple):
    """One computation, and the settings to time it under.

    Attributes:
        kernel: the name of the file that the best setting is kept in.
        place: where in that file.
        stage: the computation.
        settings: the kept one first; fields of the file.
        under: makes one of them count for a while.
    """

    kernel: str
    place: tuple[str, str, str]
    stage: Stage
    settings: tuple[Setting, ...]
    under: Callable[[Setting], AbstractContextManager]


def _try(trial: _Trial, sizes: Sizes, heads: tuple[int, int], section: Section, budget: Budget) -> None:
    """Time its settings."""
    device, kept = torch.device(sizes.options.device), trial.settings[0]
    clock = StageClock(trial.stage, device, _REPETITIONS if device.type == "cuda" else 1)
    settings = dict.fromkeys(trial.settings)
    places = ({"heads": heads, "kernel": trial.kernel, "launch": setting._asdict()} for setting in settings)
    for place in section.todo(places, budget):
        with section.attempt(**place):
            setting = type(kept)(**place["launch"])
            seconds = clock.seconds(trial.under(setting), f"{trial.kernel} as {tuple(setting)}")
            point = {**place, "place": trial.place, "kept": setting == kept, "seconds": seconds}
            section.add("points", point)
            print(*heads, trial.kernel, tuple(setting), f"{1e3 * seconds:.4g} ms", flush=True)


def _own_chunks(libraries: dict[str, bool], sizes: Sizes, heads: tuple[int, int]) -> _Trial:
    """Forward and backward, with own chunks by our own kernels and by these libraries, of which some repeat."""
    options = sizes.options
    tensors = random_tensors(*heads, sizes.kernel_length, options.head_dim, sizes.dtype, options.device)
    attend = partial(span_attention, **options.span, backend="triton")
    place = (*_width(sizes.dtype, torch.device(options.device)), str(options.head_dim))
    kept = own_chunks.listed(*place)
    tried = (kept, own_chunks.Choice(None, True), *(own_chunks.Choice(*library) for library in libraries.items()))
    stage = Stage(partial(output_and_gradients, attend, tensors), sizes.dtype, options.head_dim)
    return _Trial("own_chunks", place, stage, tried, lambda choice: own_chunks.forced(choice.library))


def _launches(sizes: Sizes, heads: tuple[int, int]) -> Iterator[_Trial]:
    """The listed launches of each kernel."""
    options, device = sizes.options, torch.device(sizes.options.device)
    tensors = random_tensors(*heads, sizes.kernel_length, options.head_dim, sizes.dtype, options.device)
    stages = attention_stages(tensors, options.span)
    for kernel, candidates in CANDIDATES.items():
        kept = launches.launch_for(kernel, options.head_dim, sizes.dtype, device)
        place = place_of(stages[kernel], device)
        yield _Trial(kernel, place, stages[kernel], (kept, *candidates), partial(forced_launch, kernel))


def forced_launch(kernel: str, launch: Launch) -> AbstractContextManager:
    """A while in which a kernel is launched so."""
    return launches.forced(**{kernel: launch})


class StageClock:
    """Times a computation under settings that must not change its results.

    Args:
        stage: the computation.
        device: where it runs.
        repetitions: of which the median is taken.
    """

    def __init__(self, stage: Stage, device: torch.device, repetitions: int) -> None:
        self._stage, self._device, self._repetitions = stage, device, repetitions
        self._timed = cold_stopwatch(device)
        self._expected = None

    def seconds(self, setting: AbstractContextManager, name: str) -> float:
        """Under this setting.

        Raises:
            WrongResults: they are not those of what is kept.
        """
        if self._expected is None:
            self._expected = self._stage.run()
        with setting:
            if not alike(self._stage.run(), self._expected):
                raise WrongResults(f"results are others under {name} than under what is kept")
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
    return (*_width(stage.dtype, device), str(stage.head_dim))


def _width(dtype: torch.dtype, device: torch.device) -> tuple[str, str]:
    """Architecture and width of numbers."""
    return own_chunks.architecture(device), "half" if dtype.itemsize == 2 else "single"
