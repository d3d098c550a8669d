# SPDX-License-Identifier: Apache-2.0
"""Paired differences: against counting by hand, and by how often intervals hold and tests find what is not there."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import product
from math import comb

import pytest

from hylora_eval.compare import holm, paired_average, paired_ratio, paired_scores, right_and_wrong


def draw_documents(generator, documents, effect):
    """Sums of two models over the same documents of very different lengths, the second `effect` a token better."""
    counts = [round(1000 * generator.lognormvariate(0, 1)) + 1 for _ in range(documents)]
    levels = [generator.gauss(3, 1) for _ in counts]
    first = [level * count for level, count in zip(levels, counts, strict=True)]
    second = [one - (effect + generator.gauss(0, 0.1)) * count for one, count in zip(first, counts, strict=True)]
    return first, counts, second, counts


@pytest.mark.parametrize("documents", [5, 10, 20])
def test_intervals_of_losses_hold_over_few_unequal_documents(documents):
    """Documents differ by 10 times as much as the models do in them; with as many degrees as documents 91 % hold."""
    generator, trials = random.Random(documents), 300
    found = [paired_ratio(*draw_documents(generator, documents, 0.05)) for _ in range(trials)]
    # 0.95 give or take three standard errors of so many trials, and a little more to the safe side.
    assert 0.925 < sum(one.low <= -0.05 <= one.high for one in found) / trials < 0.985
    # p and interval are of one piece.
    assert all((one.p < 0.05) == (not one.low <= 0 <= one.high) for one in found)


def test_pairing_finds_what_the_spread_of_documents_hides():
    first, counts, second, _ = draw_documents(random.Random(3), 30, 0.2)
    found = paired_ratio(first, counts, second, counts)
    assert found.better is True and found.p < 1e-5 and found.high < -0.1 and found.units == 30
    assert paired_ratio(second, counts, first, counts).better is False
    means = [total / count for total, count in zip(first, counts, strict=True)]
    assert max(means) - min(means) > 10 * (found.high - found.low)


def test_equal_documents_give_the_paired_t_test():
    # Differences of 1, 2, 3 and 4 in documents of 10 tokens: mean 0.25, error sqrt(5 / 3) / 2 / 10, t = 3.873.
    found = paired_ratio([5, 5, 5, 5], [10] * 4, [6, 7, 8, 9], [10] * 4)
    error = math.sqrt(5 / 3) / 2 / 10
    assert found.mean == pytest.approx(0.25)
    assert (found.high - found.mean) / error == pytest.approx(3.18245, abs=1e-4)
    # Student's t of three degrees in closed form.
    angle = math.atan(found.mean / error / math.sqrt(3))
    assert found.p == pytest.approx(1 - 2 / math.pi * (angle + math.sin(angle) * math.cos(angle)), rel=1e-6)


@pytest.mark.parametrize(("documents", "clear"), [(2, False), (5, False), (6, True), (2000, True)])
def test_documents_that_all_differ_alike_are_as_sure_as_they_are_many(documents, clear):
    """Their error is 0; two documents, or one that is there twice, are not certain for that."""
    counts = [10 + index % 7 for index in range(documents)]
    found = paired_ratio([3.0 * n for n in counts], counts, [2.9 * n for n in counts], counts)
    assert found.mean == pytest.approx(-0.1) and found.method == "sign test"
    assert found.p == pytest.approx(max(0.5 ** (documents - 1), 1e-300))
    assert (found.better is True) == clear == (not found.low <= 0 <= found.high)
    assert found.low < -0.1 < found.high


def test_a_result_does_not_differ_from_itself():
    found = paired_ratio([5.5, 7, 0], [2, 3, 0], [5.5, 7, 0], [2, 3, 0])
    assert (found.mean, found.low, found.high, found.p, found.better, found.units) == (0, 0, 0, 1, None, 2)
    same = paired_scores([0, 100, 40], [0, 100, 40])
    assert same.mean == 0 and same.p == 1 and same.low < -40 and same.high > 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [3, 4], [1, 2], [3, 5]), "not the same"),
        (([1], [3], [1], [3]), "1 documents say nothing"),
        (([1, 0], [3, 0], [1, 0], [3, 0]), "1 documents say nothing"),
    ],
)
def test_documents_that_cannot_be_paired_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        paired_ratio(*arguments)


def test_samples_that_cannot_be_paired_are_refused():
    for first, second in (([], []), ([100], [100, 0])):
        with pytest.raises(ValueError, match="not those of the same samples"):
            paired_scores(first, second)


@pytest.mark.parametrize(("alone_a", "alone_b"), [(0, 6), (3, 8), (5, 5), (1, 0), (2, 300)])
def test_right_and_wrong_samples_give_mcnemars_exact_test(alone_a, alone_b):
    first = [100] * 10 + [100] * alone_a + [0] * alone_b + [0] * 4
    second = [100] * 10 + [0] * alone_a + [100] * alone_b + [0] * 4
    discordant = alone_a + alone_b
    tail = sum(comb(discordant, right) for right in range(min(alone_a, alone_b) + 1))
    found = paired_scores(first, second)
    assert found.p == pytest.approx(float(min(1, 2 * Fraction(tail, 2**discordant))), rel=1e-9)
    assert found.method == "mcnemar" and found.units == len(first)
    assert found.mean == pytest.approx(100 * (alone_b - alone_a) / len(first))
    assert right_and_wrong(first, second) == (10, alone_a, alone_b, 4)


def test_partial_scores_are_tested_by_every_flip_of_signs():
    generator = random.Random(0)
    for _ in range(20):
        first = [100 * generator.randrange(6) / 5 for _ in range(9)]
        second = [100 * generator.randrange(4) / 3 for _ in range(9)]
        differences = [b - a for a, b in zip(first, second, strict=True)]
        sums = [abs(sum(map(math.prod, zip(signs, differences, strict=True)))) for signs in product((1, -1), repeat=9)]
        expected = sum(one >= abs(sum(differences)) - 1e-6 for one in sums) / 2**9
        found = paired_scores(first, second)
        assert found.p == pytest.approx(expected) and found.method == "sign flips"


@pytest.mark.parametrize("samples", [3, 5, 12, 14, 40])
def test_scores_without_a_common_step_are_tested_too(samples):
    """A gain of 0.3 points in each of 12 samples is no luck."""
    found = paired_scores([50.0] * samples, [50.3137] * samples)
    assert found.mean == pytest.approx(0.3137)
    assert found.p == pytest.approx(0.5 ** (samples - 1), rel=1e-6 if samples < 20 else 1, abs=1e-9)
    generator = random.Random(samples)
    few = [generator.gauss(10, 30) for _ in range(min(samples, 12))]
    sums = [abs(sum(map(math.prod, zip(signs, few, strict=True)))) for signs in product((1, -1), repeat=len(few))]
    expected = sum(one >= abs(sum(few)) - 1e-6 for one in sums) / len(sums)
    assert paired_scores([50.0] * len(few), [50 + one for one in few]).p == pytest.approx(expected)


def test_what_rounding_makes_of_equal_scores_is_no_difference():
    first, second = [100 * (1 / 3), 0, 100, 40], [100 / 3, 100, 100, 80]
    assert first[0] != second[0]
    assert paired_scores(first, second).p == paired_scores([0, *first[1:]], [0, *second[1:]]).p == 0.5


def test_many_samples_are_tested_as_counting_would():
    """Beyond what is counted out the distribution is taken for normal."""
    generator = random.Random(0)
    first = [100.0 * generator.randrange(2) for _ in range(6000)]
    second = [one if generator.random() < 0.6 else 100.0 * (generator.random() < 0.52) for one in first]
    _, alone_a, alone_b, _ = right_and_wrong(first, second)
    tail = sum(comb(alone_a + alone_b, right) for right in range(min(alone_a, alone_b) + 1))
    assert paired_scores(first, second).p == pytest.approx(
        float(Fraction(2 * tail, 2 ** (alone_a + alone_b))), abs=1e-4
    )


@pytest.mark.parametrize(("samples", "gain"), [(10, 0.1), (20, 0.0), (20, 0.3), (100, 0.02)])
def test_intervals_of_scores_hold(samples, gain):
    """Right with chance 0.6 under both alike, but for those that the second alone has right, or the first."""
    generator, trials, lost = random.Random(samples), 1500, 0.05
    held = clear = 0
    for _ in range(trials):
        outcomes = [generator.random() for _ in range(samples)]
        first = [100 * (u < 0.6 or u >= 1 - lost) for u in outcomes]
        second = [100 * (u < 0.6 or 0.6 <= u < 0.6 + lost + gain and u < 1 - lost) for u in outcomes]
        found = paired_scores(first, second)
        held += found.low <= 100 * gain <= found.high
        clear += found.p < 0.05
    assert held / trials > 0.935
    if gain == 0:
        assert clear / trials < 0.05


def draw_partial(generator, samples, answers, chances, alike):
    """Scores of two models with so many answers in each sample, mostly right or wrong together."""
    pairs = []
    for _ in range(samples):
        right = [0, 0]
        for _ in range(answers):
            first = generator.random()
            second = first if generator.random() < alike else generator.random()
            right = [right[0] + (first < chances[0]), right[1] + (second < chances[1])]
        pairs.append([100 * count / answers for count in right])
    return tuple(zip(*pairs, strict=True))


@pytest.mark.parametrize(("chances", "alike"), [((0.7, 0.7), 0.9), ((0.95, 0.97), 0.95), ((0.6, 0.7), 0.8)])
def test_intervals_of_partial_scores_hold_and_are_no_wider_than_tests(chances, alike):
    """50 samples with four answers each; pseudo-samples of 100 points held always, and 0 where the test was sure."""
    generator, trials = random.Random(0), 1000
    found = [paired_scores(*draw_partial(generator, 50, 4, chances, alike)) for _ in range(trials)]
    gain = 100 * (chances[1] - chances[0])
    assert 0.93 < sum(one.low <= gain <= one.high for one in found) / trials < 0.99
    clear = [one for one in found if one.better is not None]
    assert sum(one.low <= 0 <= one.high for one in clear) <= 0.05 * len(clear)


def test_intervals_of_averages_hold():
    """11 tasks of 20 samples, as chapter 6 averages them: with one answer, and with several."""
    generator, trials, answers = random.Random(0), 300, (1, 1, 1, 1, 1, 1, 4, 4, 5, 10, 3)
    found = []
    for _ in range(trials):
        tasks = [draw_partial(generator, 20, parts, (0.67, 0.7), 0.85) for parts in answers]
        found.append(paired_average(*zip(*tasks, strict=True)))
    assert 0.92 < sum(one.low <= 3 <= one.high for one in found) / trials < 0.98
    clear = [one for one in found if one.better is not None]
    assert len(clear) > 50 and sum(one.low <= 0 <= one.high for one in clear) <= 0.05 * len(clear)


def test_a_clear_gain_in_partial_scores_leaves_out_0():
    found = paired_scores([50] * 8 + [75] * 42, [75] * 8 + [75] * 42)
    assert found.p == pytest.approx(2 / 2**8) and found.better is True
    # Two samples more, of 25 points up and down: 200 / 52, give or take 1.96 sqrt((10 * 25**2 / 52 - mean**2) / 52).
    assert (found.low, found.high) == pytest.approx((1.055, 6.637), abs=1e-3)


def test_an_average_weighs_tasks_and_not_samples():
    # Tasks of 2 and 4 samples: gains of 50 and 0 points.
    found = paired_average([[0, 100], [0, 0, 100, 100]], [[100, 100], [0, 0, 100, 100]])
    assert found.mean == pytest.approx(25) and found.units == 6 and found.method == "sign flips"
    # Of equal tasks it is the difference over all samples.
    first, second = [[0, 50, 100, 0], [20, 40, 60, 80]], [[0, 100, 100, 100], [20, 60, 60, 100]]
    whole = paired_scores(sum(first, []), sum(second, []))
    assert paired_average(first, second) == whole


def test_holm_corrects_one_after_the_other():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_holm_finds_no_more_in_noise_than_one_comparison():
    generator, trials = random.Random(0), 2000
    found = sum(min(holm(generator.random() for _ in range(8))) < 0.05 for _ in range(trials))
    assert 0.03 < found / trials < 0.065
