# SPDX-License-Identifier: Apache-2.0
"""Contenders take turns, times are those of the clock, and running out of memory stays where it happened."""

from __future__ import annotations

import json

import pytest
import torch

from hylora_eval.runtime.memory import TensorMemory, peak_memory
from hylora_eval.runtime.rounds import Spread, measure, stopwatch

CPU = torch.device("cpu")


def recorder(fail=lambda name, length: None):
    """A `prepare` that writes down who is prepared and who runs."""
    told = []

    def prepare(name, length):
        told.append(("prepare", name))

        def run():
            told.append(("run", name))
            fail(name, length)

        return run

    return prepare, told


def clock(seconds):
    """A stopwatch that runs what it times, and says what it is told."""
    times = iter(seconds)

    def timed(run, device):
        run()
        return next(times)

    return timed


def test_contenders_alternate_within_a_round_and_are_prepared_anew():
    prepare, told = recorder()
    measure(prepare, ["a", "b"], 8, device=CPU, rounds=2, warmup=1)
    # a warm-up round, two timed ones, and one for the memory
    assert told == [("prepare", "a"), ("run", "a"), ("prepare", "b"), ("run", "b")] * 4


def test_times_ratios_and_spread():
    prepare, _ = recorder()
    timed = clock([9, 9, 9, 9, 4, 2, 6, 2, 5, 1])
    full, fast = measure(prepare, ["full", "fast"], 8, device=CPU, rounds=3, warmup=2, baseline="full", timed=timed)
    assert full.seconds == (4, 6, 5) and fast.seconds == (2, 2, 1)
    assert full.time == Spread(5, 4, 6) and fast.time == Spread(2, 1, 2)
    assert full.speedup == Spread(1, 1, 1)
    assert fast.speedup == Spread(3, 2, 5)  # of 4/2, 6/2 and 5/1: formed within a round


def test_times_are_of_one_repetition():
    prepare, _ = recorder()
    (one,) = measure(prepare, ["a"], 8, device=CPU, rounds=1, warmup=0, repetitions=4, timed=clock([8]))
    assert one.seconds == (2,) and one.speedup is None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9999 bytes"),
    ],
)
@pytest.mark.parametrize("loser", ["full", "fast"])
def test_out_of_memory_is_recorded_and_the_rest_goes_on(error, loser):
    def fail(name, length):
        if (name, length) == (loser, 16):
            raise error

    prepare, told = recorder(fail)
    kept = "fast" if loser == "full" else "full"
    by_length = [measure(prepare, ["full", "fast"], n, device=CPU, rounds=2, baseline="full") for n in (8, 16)]
    assert all(part.error is None and len(part.seconds) == 2 for part in by_length[0])
    found = {part.contender: part for part in by_length[1]}
    assert found[loser].error == "out of memory" and found[loser].seconds == () and found[loser].time is None
    assert found[kept].error is None and len(found[kept].seconds) == 2
    assert (found[kept].speedup is None) == (loser == "full")
    assert told.count(("run", loser)) == 4 + 1  # not tried again


def test_out_of_memory_in_a_later_round_leaves_no_half_result():
    runs = iter([None, None, RuntimeError("can't allocate memory")])

    def fail(name, length):
        error = next(runs)
        if error is not None:
            raise error

    (part,) = measure(recorder(fail)[0], ["a"], 8, device=CPU, rounds=3, warmup=0)
    assert (part.error, part.seconds, part.peak_bytes) == ("out of memory", (), None)


def test_other_errors_are_not_swallowed():
    def fail(name, length):
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        measure(recorder(fail)[0], ["a"], 8, device=CPU)


def test_an_impossible_allocation_on_the_cpu_counts_as_out_of_memory():
    def prepare(name, length):
        return lambda: torch.empty(2**60, dtype=torch.uint8)

    (part,) = measure(prepare, ["a"], 8, device=CPU, rounds=1, warmup=0)
    assert part.error == "out of memory"


def test_results_are_plain_json():
    prepare, _ = recorder()
    (part,) = measure(prepare, ["full"], 8, device=CPU, rounds=2, baseline="full", timed=clock([1, 2, 4]))
    assert json.loads(json.dumps(part.to_dict())) == {
        "contender": "full",
        "length": 8,
        "seconds": [2, 4],
        "time": {"median": 3, "smallest": 2, "largest": 4},
        "speedup": {"median": 1, "smallest": 1, "largest": 1},
        "peak_bytes": 0,
        "error": None,
    }


def test_progress_and_wrong_numbers():
    told = []
    measure(recorder()[0], ["a", "b"], 8, device=CPU, rounds=1, warmup=1, progress=lambda *pair: told.append(pair))
    assert told == [(n, 6) for n in range(1, 7)]
    for wrong in ({"rounds": 0}, {"warmup": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            measure(recorder()[0], ["a"], 8, device=CPU, **wrong)


def test_the_stopwatch_waits_for_the_run():
    import time

    assert stopwatch(lambda: time.sleep(0.05), CPU) >= 0.05


def test_peak_memory_counts_what_lives_at_one_time():
    def chain():
        x = torch.ones(1000)
        for _ in range(5):
            x = x * 2
        return x

    assert peak_memory(lambda: chain, CPU) == 2 * 4000
    with TensorMemory() as memory:
        kept = torch.ones(1000)
        kept.view(10, 100).add_(1)
        torch.ones(10, 50)
    assert memory.peak == 4000 + 2000
    assert memory.largest == {1000: 1000, 50: 500}


def test_peak_memory_counts_a_filled_cache_but_not_its_filling():
    def prepare():
        cache = torch.ones(1000) + torch.ones(1000)
        return lambda: cache[:10] * 2

    assert peak_memory(prepare, CPU) == 4000 + 40


def test_peak_memory_counts_what_backward_keeps():
    weight = torch.ones(1000, requires_grad=True)

    def chain(links, gradients):
        def run():
            x = weight
            with torch.set_grad_enabled(gradients):
                for _ in range(links):
                    x = x.exp()
            if gradients:
                x.sum().backward()
            weight.grad = None

        return peak_memory(lambda: run, CPU)

    assert chain(8, False) == chain(4, False) == 2 * 4000
    assert chain(8, True) == chain(4, True) + 4 * 4000
