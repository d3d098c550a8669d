# SPDX-License-Identifier: Apache-2.0
"""Verdicts on what rules find, and the samples that count for them."""

from __future__ import annotations

import pytest

from hylora_eval.estimates import wilson
from hylora_eval.verdicts import counted_samples, hit_interval, in_words, judge


def hits(rate, error, **counts):
    return {"hit_rate": rate, "standard_error": error, **counts}


def test_samples_without_needles_make_nothing_surer():
    # Of 30 samples one has pairs, and all 4 of them are found.
    found = hits(1.0, None, samples=1, pairs=4)
    assert hit_interval(found, 30) == wilson(1, 1) and hit_interval(found, 30)[0] == pytest.approx(0.207, abs=1e-3)
    # Results that do not say how many count have no more of them than needles.
    assert counted_samples(hits(1.0, None, queries=4), 30) == 4
    assert counted_samples(hits(1.0, 0.0, queries=300), 30) == 30
    assert hit_interval(hits(None, None, queries=0), 30) is None


def test_no_hit_and_one_hit_get_one_verdict():
    error = (1 / 90) / 20
    none = hit_interval(hits(0.0, 0.0, samples=20, queries=1800), 20)
    one = hit_interval(hits(1 / 1800, error, samples=20, queries=1800), 20)
    assert one[1] >= none[1]
    assert judge(none, 0.03) == judge(one, 0.03) == "not to be told from chance"


def test_all_hit_where_chance_hits_all_is_not_below_it():
    assert judge(hit_interval(hits(1.0, 0.0, samples=20, queries=200), 20), 1.0) == "not to be told from chance"


def test_names_with_commas_stay_apart_in_the_sentence():
    judged = [("a, 16", "above chance"), ("b, 16", "above chance"), ("c", "below chance")]
    assert in_words(judged, 1) == "Above chance: a, 16; b, 16. Below chance: c. By 95 % intervals over 1 sample."
