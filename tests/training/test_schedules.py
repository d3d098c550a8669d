# SPDX-License-Identifier: Apache-2.0
"""Schedules at known points, and what they refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hylora.training import schedules

KNOWN = {
    "constant": (schedules.constant(0.5), {0: 0.5, 0.3: 0.5, 1: 0.5}),
    "linear": (schedules.linear(1.0, 0.2), {0: 1.0, 0.25: 0.8, 1: 0.2}),
    "cosine": (schedules.cosine(1.0, 0.0), {0: 1.0, 0.5: 0.5, 0.25: 0.8535533905932737, 1: 0.0}),
    "quadratic": (schedules.polynomial(1.0, 0.0, 2.0), {0: 1.0, 0.5: 0.25, 1: 0.0}),
    "rising": (schedules.polynomial(0.0, 1.0, 3.0), {0: 0.0, 0.5: 0.875, 1: 1.0}),
    "steps": (schedules.multi_step(1.0, [0.5, 0.75], 0.1), {0: 1.0, 0.49: 1.0, 0.5: 0.1, 0.75: 0.01, 1: 0.01}),
    "pieces": (schedules.piecewise([(0.2, 1.0), (0.6, 3.0)]), {0: 1.0, 0.2: 1.0, 0.3: 1.5, 0.6: 3.0, 1: 3.0}),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_values(name):
    schedule, values = KNOWN[name]
    for progress, value in values.items():
        assert schedule(progress) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("name", KNOWN)
@given(beyond=st.floats(0, 10))
def test_constant_outside_the_unit_interval(name, beyond):
    schedule, _ = KNOWN[name]
    assert schedule(-beyond) == pytest.approx(schedule(0.0))
    assert schedule(1.0 + beyond) == pytest.approx(schedule(1.0))


def test_warmup_reaches_one_and_never_starts_at_zero():
    assert [schedules.warmup(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert schedules.warmup(0, 0) == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.polynomial(1, 0, 0), "power=0 must be positive"),
        (lambda: schedules.polynomial(1, 0, float("inf")), "power=inf must be positive and finite"),
        (lambda: schedules.multi_step(1, [float("nan")], 0.1), "ascending"),
        (lambda: schedules.piecewise([(0.0, 1), (float("nan"), 2), (1.0, 3)]), "ascending"),
        (lambda: schedules.piecewise([(float("nan"), 2)]), "points="),
        (lambda: schedules.multi_step(1, [0.7, 0.5], 0.1), "ascending"),
        (lambda: schedules.multi_step(1, [1.0], 0.1), r"in \(0, 1\)"),
        (lambda: schedules.piecewise([]), "points="),
        (lambda: schedules.piecewise([(0.5, 1), (0.5, 2)]), "ascending"),
        (lambda: schedules.piecewise([(0.0, 1), (1.5, 2)]), r"\[0, 1\]"),
    ],
)
def test_bad_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
