# SPDX-License-Identifier: Apache-2.0
"""Contenders take turns, times are those of the clock, and running out of memory stays where it happened."""

from __future__ import annotations

import json
import math
import random

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
    assert [(told[i], told[i + 1]) for i in range(0, 16, 2)] == [
        (("prepare", name), ("run", name)) for name in "baabbaab"
    ]


def test_each_contender_comes_first_as_often_and_times_stay_its_own():
    prepare, told = recorder()
    names = ["a", "b", "c"]
    clock_of = {"a": 1.0, "b": 2.0, "c": 4.0}
    timed = lambda run, device: run() or clock_of[told[-1][1]]  # noqa: E731
    found = measure(prepare, names, 8, device=CPU, rounds=6, warmup=0, timed=timed, baseline="b")
    order = [name for what, name in told if what == "run"]
    assert [order[3 * turn : 3 * turn + 3] for turn in range(3)] == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]
    assert [part.contender for part in found] == names
    assert [set(part.seconds) for part in found] == [{1.0}, {2.0}, {4.0}]
    assert [part.speedup.median for part in found] == [2.0, 1.0, 0.5]
    assert found[0].speedup.low == found[0].speedup.high == 2.0


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [(5, None, None), (6, 0, 5), (8, 0, 7), (9, 1, 7), (30, 9, 20), (2000, 955, 1044)],
)
def test_the_interval_of_a_median_is_that_of_the_tables(values, low, high):
    spread = Spread.of([float(value) for value in reversed(range(values))])
    assert (spread.low, spread.high) == (low, high)


def test_intervals_of_medians_hold_whatever_the_distribution():
    generator, trials = random.Random(0), 2000
    # Their chances to hold by the binomial sum.
    for rounds, chance in ((6, 0.96875), (11, 0.98828), (20, 0.95861)):
        drawn = [Spread.of([generator.expovariate(math.log(2)) for _ in range(rounds)]) for _ in range(trials)]
        assert sum(one.low <= 1 <= one.high for one in drawn) / trials == pytest.approx(chance, abs=0.012)


@pytest.mark.parametrize("seconds", [0.0, math.nan, math.inf])
def test_a_time_that_gives_no_ratio_is_an_error_that_says_where(seconds):
    with pytest.raises(ValueError, match="'fast' at length 8 took .* s by the clock"):
        timed = clock([1, seconds])
        measure(recorder()[0], ["full", "fast"], 8, device=CPU, rounds=1, warmup=0, timed=timed, baseline="full")


def test_times_ratios_and_spread():
    prepare, _ = recorder()
    # Warm-up, then rounds that begin with full, fast and full.
    timed = clock([9, 9, 9, 9, 4, 2, 2, 6, 5, 1])
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
    unknown = {"low": None, "high": None}
    assert json.loads(json.dumps(part.to_dict())) == {
        "contender": "full",
        "length": 8,
        "seconds": [2, 4],
        "time": {"median": 3, "smallest": 2, "largest": 4, **unknown},
        "speedup": {"median": 1, "smallest": 1, "largest": 1, **unknown},
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
