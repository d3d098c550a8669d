# SPDX-License-Identifier: Apache-2.0
"""The turn of a signal, from its history alone."""

from __future__ import annotations

import pytest

from vision_extras.pruning.detector import DetectorRecipe, smoothed, turned


def first_turn(values, **settings):
    """The number of values after which a turn is seen, or None."""
    recipe = DetectorRecipe(**settings)
    return next((end for end in range(len(values) + 1) if turned(values[:end], recipe)), None)


def test_smoothing_is_a_mean_of_what_is_there():
    assert smoothed([2.0, 4.0, 6.0, 0.0], 3) == [2, 3, 4, pytest.approx(10 / 3)]
    assert smoothed([2.0, 4.0], 1) == [2, 4] and smoothed([], 3) == []


def test_a_turn_is_seen_when_it_lasts():
    values = [1.0, 2.0, 4.0, 8.0, 7.0, 8.5, 7.0, 7.0, 7.0, 5.0]
    plain = {"window": 1, "fall": 0.0}
    assert first_turn(values, patience=1, **plain) == 5
    assert first_turn(values, patience=2, **plain) == 8
    assert first_turn(values, patience=4, **plain) == 10
    assert first_turn(values, patience=1, window=1, fall=0.15) == 7
    assert first_turn(values, patience=1, window=1, fall=0.3) == 10
    # Means of three: 1, 1.5, 2.33, 4.67, 6.33, 7.83, 7.5, 7.5, 7, 6.33
    assert first_turn(values, patience=1, window=3, fall=0.0) == 7
    assert first_turn(values, patience=2, window=3, fall=0.1) == 10


@pytest.mark.parametrize("values", [[], [1.0], [3.0] * 50, [float(n) for n in range(50)]])
def test_what_does_not_fall_does_not_turn(values):
    assert first_turn(values) is None


def test_a_signal_that_falls_from_the_start_has_turned():
    assert first_turn([8.0, 6.0, 4.0, 2.0], window=1, patience=2) == 3


def test_a_turn_stays_seen_while_the_signal_stays_low():
    values = [1.0, 5.0, 3.0, 2.0, 2.0, 1.0]
    recipe = DetectorRecipe(window=1)
    assert [turned(values[:end], recipe) for end in range(len(values) + 1)] == [False] * 4 + [True] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0}, "window=0 must be at least 1"),
        ({"patience": 0}, "patience=0 must be at least 1"),
        ({"fall": 1.0}, "fall=1.0 must be at least 0 and below 1"),
        ({"signal": "fischer"}, "signal='fischer' must be fisher | kl_uniform; the nearest is fisher"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError) as caught:
        DetectorRecipe(**settings)
    assert message in str(caught.value)
