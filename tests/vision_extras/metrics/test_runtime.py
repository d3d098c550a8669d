# SPDX-License-Identifier: Apache-2.0
"""Works that take turns."""

import itertools
import time

from vision_extras.metrics.runtime import interleaved


def test_works_take_turns_and_the_first_time_is_not_counted(monkeypatch):
    clock, done = itertools.count(), []
    # A second passes between two looks at the clock, and as many more as a work asks for.
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))

    def work(name, seconds):
        done.append(name)
        for _ in range(seconds):
            next(clock)

    found = interleaved({"a": lambda: work("a", 0), "b": lambda: work("b", 2)}, rounds=3)
    assert found == {"a": [1, 1, 1], "b": [3, 3, 3]}
    assert "".join(done) == "ab" + "abbaab"
