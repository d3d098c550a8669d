# SPDX-License-Identifier: Apache-2.0
from hylora.pace import Pace


def lines(seconds_per_step, steps):
    """The steps that get a line, and what is left after each."""
    now = 0.0
    pace, found = Pace(clock=lambda: now), {}
    for step in range(1, steps + 1):
        now += seconds_per_step
        if pace.is_due(step, steps):
            found[step] = pace.left(step, steps)
    return found


def test_slow_steps_get_a_line_each_and_fast_ones_a_few_in_a_minute():
    assert list(lines(seconds_per_step=8, steps=10)) == list(range(1, 11))
    assert list(lines(seconds_per_step=0.5, steps=44)) == [10, 20, 30, 40, 44]


def test_a_run_of_a_week_gets_hundreds_of_lines_and_one_every_ten_minutes_at_its_end():
    found = list(lines(seconds_per_step=60, steps=7 * 24 * 60))
    assert found[:3] == [1, 2, 3] and 500 < len(found) < 1500
    assert found[-1] - found[-2] <= 10


def test_what_is_left_follows_from_the_speed_behind_the_first_step():
    assert lines(seconds_per_step=3600, steps=30)[5] == ", 1 day, 1:00:00 left"
    now = 0.0
    pace = Pace(clock=lambda: now)
    now = 600.0  # of an evaluation before the first step
    assert pace.is_due(90, 100) and pace.left(90, 100) == ""  # nothing is known yet
    now = 610.0
    assert pace.left(95, 100) == ", 0:00:10 left"
    assert pace.left(100, 100) == pace.left(95, None) == ""
