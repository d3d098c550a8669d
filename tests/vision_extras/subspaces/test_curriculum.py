# SPDX-License-Identifier: Apache-2.0
"""Algorithms 1 to 3, written down as the thesis has them."""

from __future__ import annotations

from collections import Counter

import pytest

from hylora.training.moment import Moment
from vision_extras.subspaces import Curriculum, SubspaceRecipe

STEPS = 200


def draws(steps=range(STEPS), seed=0, **settings):
    recipe = SubspaceRecipe(**settings)
    curriculum = Curriculum(recipe.build(), recipe)
    return [curriculum.draws(Moment(step, STEPS, seed)) for step in steps]


def test_lines_anneal_as_in_algorithm_2():
    """What is kept is alpha + (1 - alpha) * max(0, 1 - i_c / i_w), and the point stays where it was drawn."""
    for step, (draw,) in enumerate(draws(kind="line", strongest=0.9)):
        kept = draw.alpha + (1 - draw.alpha) * max(0, 1 - step / (0.8 * STEPS))
        assert draw.level == pytest.approx(1 - kept)
        assert 0.1 <= draw.alpha <= 1


def test_ends_of_lines_are_drawn_more_often():
    alphas = [draw.alpha for (draw,) in draws(range(STEPS), kind="line", strongest=0.9)]
    counts = Counter(alphas)
    # Half of 200, and a quarter at each end; 5 standard deviations are 35 and 31.
    assert abs(counts[0.1] + counts[1.0] - 100) < 35
    assert abs(counts[0.1] - 50) < 31 and abs(counts[1.0] - 50) < 31
    between = [alpha for alpha in alphas if 0.1 < alpha < 1]
    assert len(set(between)) == len(between)
    # The mean of n uniform draws over 0.9.
    assert abs(sum(between) / len(between) - 0.55) < 5 * 0.9 / 12**0.5 / len(between) ** 0.5


def test_points_hold_as_in_algorithm_3():
    early, late = draws(range(160), kind="point"), draws(range(160, 200), kind="point")
    assert {draw for (draw,) in early} == {(1.0, 0.0)}
    levels = [draw.level for (draw,) in late]
    assert len(set(levels)) == 40 and min(levels) < 0.3 < 0.7 < max(levels) <= 0.975


def test_in_a_high_range_points_hold_at_its_weakest_level():
    (early,) = draws([0], kind="point", weakest=0.95, strongest=0.995)
    assert early == [(0.05, 0.95)]


def test_points_of_transformers_anneal_as_lines_do():
    settings = {"weakest": 0.8, "strongest": 0.95, "warmup": 0.65}
    found = draws(kind="point", curriculum="anneal", **settings)
    assert found[0][0].level == 0 and all(0.8 <= draw.level <= 0.95 for (draw,) in found[130:])


def test_the_sandwich_has_both_ends():
    for found in draws(range(20), kind="line", compression="width"):
        assert len(found) == 4
        assert found[0] == (0.0, 0.25) and found[1] == (1.0, 1.0)
        assert all(draw.level == pytest.approx(0.25 + 0.75 * draw.alpha) for draw in found[2:])
    assert len({draw.level for found in draws(range(20), kind="point", compression="width") for draw in found}) == 42


def test_bits_are_drawn_from_those_there_are():
    late = [draw for (draw,) in draws(range(160, 200), kind="line", compression="bits")]
    assert {draw.level for draw in late} == {3, 4, 5, 6, 7, 8}
    assert all(draw.alpha == pytest.approx((draw.level - 2) / 6) for draw in late)
    early = [draw for (draw,) in draws(range(160), kind="line", compression="bits")]
    assert early[0].level == 8 and all(draw.level in range(3, 9) for draw in early)
    full = [draw for (draw,) in draws(range(40), kind="line", compression="bits", curriculum="none")]
    assert {draw.level for draw in full} == {3, 4, 5, 6, 7, 8}


def test_targets_are_all_in_each_update():
    assert draws([7], kind="point", compression="width", targets=(0.25, 0.5, 1.0)) == [
        [(0.0, 0.25), (pytest.approx(1 / 3), pytest.approx(0.5)), (1.0, 1.0)]
    ]
    # Those of sparsity come on from 0 over the first 80 % (section 3.2.4).
    (start,), (half,), (end,) = draws([0, 80, 160], kind="point", targets=(0.9,))
    assert (start.level, half.level, end.level) == (0, pytest.approx(0.45), 0.9)


def test_activations_are_quantised_after_the_warm_up():
    recipe = SubspaceRecipe(kind="line", compression="bits")
    curriculum = Curriculum(recipe.build(), recipe)
    found = [curriculum.quantises_activations(Moment(step, STEPS, 0)) for step in range(STEPS)]
    assert found == [False] * 160 + [True] * 40


def test_draws_follow_from_the_moment():
    assert draws(kind="line") == draws(kind="line") != draws(kind="line", seed=1)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "line", "strongest": 0.9},
        {"kind": "point", "strongest": 0.9},
        {"kind": "line", "compression": "width"},
        {"kind": "line", "compression": "width", "samples": 3, "curriculum": "anneal"},
        {"kind": "point", "compression": "width", "curriculum": "hold", "warmup": 0.4},
        {"kind": "point", "compression": "width", "targets": [0.25, 0.5, 1.0]},
        {"kind": "line", "compression": "bits"},
        {"kind": "point", "compression": "bits", "bias": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("progress", [0.1, 0.5, 0.9])
def test_what_is_expected_is_the_mean_of_what_is_drawn(settings, progress):
    recipe = SubspaceRecipe(**settings)
    curriculum = Curriculum(recipe.build(), recipe)
    expected = curriculum.expected(progress)
    drawn = [[draw.level for draw in curriculum.draws(Moment(round(10 * progress), 10, seed))] for seed in range(600)]
    assert sum(count for _, count in expected) == pytest.approx(sum(map(len, drawn)) / 600)
    span = abs(recipe.weakest - recipe.strongest)
    for power in (1, 2):
        mean = sum(level**power for levels in drawn for level in levels) / 600
        # Six standard deviations of a draw that is one end or the other.
        spread = (recipe.weakest**power - recipe.strongest**power) / 2
        assert (
            abs(sum(count * level**power for level, count in expected) - mean)
            <= 6 * abs(spread) * (max(map(len, drawn)) / 600) ** 0.5 + 1e-3 * span**power
        )
