# SPDX-License-Identifier: Apache-2.0
"""Intervals: against published figures, by the definition, and by how often they hold what they should."""

from __future__ import annotations

import math
from math import comb

import numpy as np
import pytest
import torch

from hylora_eval.estimates import (
    degrees_of_freedom,
    mean_and_standard_error,
    resolution,
    share_interval,
    t_chance,
    t_quantile,
    wilson,
)


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (9, 2.26216), (30, 2.04227), (1000, 1.96234)]
)
def test_quantiles_are_those_of_the_tables(degrees, quantile):
    assert t_quantile(degrees) == pytest.approx(quantile, abs=1e-5)


# Closed forms for one and two degrees, a published quantile between whole ones, and the normal.
@pytest.mark.parametrize(
    ("t", "degrees", "chance"),
    [
        (1.5, 1, 1 - 2 / math.pi * math.atan(1.5)),
        (40.0, 2, 1 - 40 / math.sqrt(2 + 40**2)),
        (2.57058, 5, 0.05),
        (0.0, 2.5, 1.0),
        (-1.95996, 1e4, 0.05),
    ],
)
def test_chances_of_students_t(t, degrees, chance):
    assert t_chance(t, degrees) == pytest.approx(chance, rel=1e-5)


def test_quantiles_between_whole_degrees_lie_between():
    assert t_quantile(2) > t_quantile(2.5) > t_quantile(3)
    assert t_chance(t_quantile(2.5), 2.5) == pytest.approx(0.05, rel=1e-6)


def test_one_large_document_takes_degrees_of_freedom():
    assert degrees_of_freedom([7, 7, 7, 7]) == pytest.approx(3)
    assert degrees_of_freedom([70, 10, 10, 10]) == 1
    assert degrees_of_freedom([30, 10, 10, 10, 10, 10]) == pytest.approx(80**2 / 1400 - 1)


@pytest.mark.parametrize(
    ("right", "samples", "low", "high"), [(0, 3, 0, 0.56150), (3, 3, 0.43850, 1), (1, 3, 0.06149, 0.79234)]
)
def test_no_interval_is_without_width(right, samples, low, high):
    assert wilson(right / samples, samples) == pytest.approx((low, high), abs=1e-5)


def test_partial_scores_are_covered():
    """Scores of 0, a half and 1: the chance that the interval holds the mean, summed over all outcomes."""
    chances, samples = (0.2, 0.5, 0.3), 12
    covered = 0.0
    for whole in range(samples + 1):
        for half in range(samples + 1 - whole):
            none = samples - whole - half
            chance = (
                comb(samples, whole)
                * comb(samples - whole, half)
                * math.prod(p**n for p, n in zip(chances, (none, half, whole), strict=True))
            )
            low, high = wilson((whole + half / 2) / samples, samples)
            covered += chance * (low <= 0.55 <= high)
    assert covered > 0.95


@pytest.mark.parametrize("documents", [3, 6])
def test_an_interval_over_few_unequal_documents_holds_the_mean(documents):
    """Documents of very different lengths, each with a level of its own."""
    draw = torch.Generator().manual_seed(0)
    held, trials = 0, 1500
    for _ in range(trials):
        counts = torch.randn(documents, generator=draw).exp().mul(1000).round() + 1
        sums = counts * torch.randn(documents, generator=draw)
        mean, error = mean_and_standard_error(sums, counts)
        held += t_chance(mean / error, degrees_of_freedom(counts.tolist())) > 0.05
    assert 0.94 < held / trials < 0.985


def test_a_share_of_items_in_documents_counts_as_many_as_its_error_says():
    # 20 documents of 10 items: independent ones give the error of 200, alike ones that of 20.
    few, many = (math.sqrt(0.25 / count) for count in (20, 200))
    width = {error: share_interval(0.5, error, 20, 200) for error in (few, many)}
    assert width[few] == pytest.approx(wilson(0.5, 20 * (1.95996 / 2.09302) ** 2), abs=1e-4)
    assert width[many] == pytest.approx(wilson(0.5, 200 * (1.95996 / 2.09302) ** 2), abs=1e-4)
    # No more than there are; where all or nothing is found, and for one document, every document is one.
    assert share_interval(0.5, 1e-9, 20, 200) == share_interval(0.5, 0.0, 20, 200)
    assert share_interval(0.5, 0.0, 20, 200) == pytest.approx(width[many], abs=1e-9)
    assert share_interval(0.0, 0.0, 20, 200) == wilson(0, 20)
    assert share_interval(1.0, 0.0, 20, 200) == wilson(1, 20)
    assert share_interval(0.7, None, 1, 10) == wilson(0.7, 1)


# Where hits fill one document after the other, the first in another makes documents look more alike: a trace is lost.
@pytest.mark.parametrize(("filling", "lost"), [("document by document", 1.5e-3), ("round about", 1e-9)])
@pytest.mark.parametrize("documents", [2, 5, 20])
def test_one_hit_more_lowers_no_end(documents, filling, lost):
    counts, before = torch.full((documents,), 90), (0.0, 0.0)
    for hits in range(90 * documents + 1):
        if filling == "round about":
            sums = torch.tensor([hits // documents + (index < hits % documents) for index in range(documents)])
        else:
            sums = (hits - 90 * torch.arange(documents)).clamp(0, 90)
        ends = share_interval(*mean_and_standard_error(sums, counts), documents, 90 * documents)
        assert all(now >= last - lost for now, last in zip(ends, before, strict=True)), (hits, before, ends)
        before = ends


@pytest.mark.parametrize(("mean", "correlation"), [(0.03, 0.3), (0.5, 0.3), (0.97, 0.2), (0.97, 0.4)])
def test_the_interval_of_a_share_holds_near_the_ends_as_well(mean, correlation):
    """20 documents of 90 needles, each with a share of its own; without more reach at the ends 80 to 87 % hold."""
    draw, trials, documents, items = np.random.default_rng(0), 400, 20, 90
    alike = 1 / correlation - 1
    shares = draw.beta(mean * alike, (1 - mean) * alike, (trials, documents))
    counts = torch.full((documents,), items)
    intervals = [
        share_interval(*mean_and_standard_error(hits, counts), documents, documents * items)
        for hits in torch.from_numpy(draw.binomial(items, shares))
    ]
    assert 0.93 < np.mean([low <= mean <= high for low, high in intervals]) < 0.995
    assert np.mean([high - low for low, high in intervals]) < 0.3


def test_what_samples_can_tell_is_said_in_words():
    assert resolution(3) == "With 3 samples even 0 and 100 % cannot be told apart."
    assert "With 20 samples a score near 50 is known to 20 points either way" in resolution(20)
