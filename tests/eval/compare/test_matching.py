# SPDX-License-Identifier: Apache-2.0
"""What two results share, and the words where they share too little."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from hylora_eval.compare import Difference, Unpaired, differences, paired_average, paired_ratio, paired_scores
from hylora_eval.estimates import percent_interval
from hylora_eval.results import Result
from tests.eval.compare.results import COUNTS, LOSSES, losses, scores


def test_losses_of_the_same_documents_are_paired_at_each_length_that_both_have():
    better = [total - 0.02 * count for total, count in zip(LOSSES, COUNTS, strict=True)]
    better[0] -= 0.1
    found = differences(losses(), losses(better, lengths=(128, 256)))
    assert [one[:2] for one in found] == [("perplexity", 128)]
    assert found[0].found == paired_ratio(LOSSES, COUNTS, better, COUNTS)
    assert found[0].found.mean == pytest.approx(-0.02 - 0.1 / sum(COUNTS)) and found[0].found.better is True


@pytest.mark.parametrize(
    ("other", "reason", "interval"),
    [
        (losses(tokens="c" * 64), "other documents (data.tokens_sha256 differs)", True),
        (losses(None), "this result keeps no sum of each document: run hylora eval ppl anew", True),
        (losses(counts=[100, 50, 200, 81]), "document_tokens differs", True),
        (losses(mode="sliding", stride=8), "mode and stride 'sliding', 8, in the baseline 'chunks'", False),
    ],
)
def test_losses_that_cannot_be_paired_say_why(other, reason, interval):
    (compared, _) = differences(losses(), other)
    assert isinstance(compared.found, Unpaired) and reason in str(compared.found)
    assert (compared.found.mean is not None) == interval
    if interval:
        assert compared.found.low < compared.found.mean < compared.found.high


def test_what_counts_as_one_document_is_not_compared():
    joined = losses([1300.0], [430], mode="longlora", stride=256)
    assert "all documents count as one" in str(differences(joined, joined)[0].found)
    assert "one document, which says nothing" in str(differences(*[losses([300.0], [100])] * 2)[0].found)


def test_the_interval_without_pairs_is_that_of_independent_errors():
    # Of the bounds in the file where there are some, else Student's t with a degree less than documents.
    first, second = losses(None, lengths=(64,)), losses(None, lengths=(64,), perplexity=30.0, low=25.0, high=33.0)
    (compared,) = differences(first, second)
    found, reach = compared.found, 0.1 * 3.18245
    assert found.mean == pytest.approx(math.log(30) - 3)
    assert found.mean - found.low == pytest.approx(math.hypot(math.log(30 / 25), reach), rel=1e-4)
    assert found.high - found.mean == pytest.approx(math.hypot(math.log(33 / 30), reach), rel=1e-4)


def test_scores_of_the_same_prompts_are_paired_and_averaged():
    first = {"niah_multivalue": [100, 50, 0, 25], "niah_multiquery": [100, 100, 75, 0], "vt": [100, 0, 100, 0]}
    second = {"niah_multivalue": [100, 75, 50, 25], "niah_multiquery": [100, 100, 100, 0], "vt": [100, 100, 100, 0]}
    found = {what: one for what, length, one in differences(scores(first), scores(second)) if length == 4096}
    for task in first:
        assert found[task] == paired_scores(first[task], second[task])
    pair = ("niah_multivalue", "niah_multiquery")
    assert found["NIAH-M-QV"] == paired_average([first[t] for t in pair], [second[t] for t in pair])
    # Groups that lack a task are left out, as everywhere.
    assert sorted(found) == ["NIAH-M-QV", "VT", *sorted(first)]
    assert isinstance(found["VT"], Difference)


def test_scores_that_cannot_be_paired_say_why():
    tasks = {"niah_multivalue": [100, 50, 0, 25], "niah_multiquery": [100, 100, 75, 0]}
    for other, reason in (
        (scores(tasks, prompts="c" * 64), "other prompts (prompts_sha256 differs)"),
        (scores(tasks, kept=False), "this result keeps no score of each sample: run hylora eval ruler anew"),
    ):
        for compared in differences(scores(tasks), other):
            assert reason in str(compared.found) and compared.found.mean == 0
    low, high = percent_interval((43.75 + 68.75) / 2, 8)
    average = differences(scores(tasks), scores(tasks, kept=False))[0]
    assert average.what == "NIAH-M-QV"
    assert average.found.high == pytest.approx(math.hypot(high - 56.25, 56.25 - low))


def test_kinds_that_do_not_go_together_have_no_difference():
    assert differences(losses(), scores({"vt": [100]})) == []
    assert differences(Result(kind="runtime"), Result(kind="runtime")) == []


def test_a_loss_that_is_not_finite_is_left_out():
    assert differences(losses(), losses(perplexity=math.inf)) == []


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (losses(document_tokens=[1, 2]), r"results\[0\].document_tokens must have a number for each of 4 documents"),
        (losses(perplexity=0.0), r"results\[0\].perplexity=0.0 must be above 0"),
        (losses(document_nll=[1, 2, "x", 4]), r"results\[0\].document_nll\[2\] is 'x'"),
        (Result(kind="perplexity", results=[{"length": 8, "perplexity": 2.0}], settings={"mode": "chunks"}), "data"),
    ],
)
def test_a_damaged_result_is_named_by_its_field(damaged, message):
    with pytest.raises(ValueError, match=message):
        differences(losses(), damaged)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [100]}, "scores has 1 numbers, not one for each of 2 samples"),
        ({"scores": [100, 101]}, r"scores\[1\]=101.0 must be from 0 to 100"),
        ({"scores": [-1, 0]}, r"scores\[0\]=-1.0 must be from 0 to 100"),
        ({"scores": [], "samples": 0}, "samples=0 must be at least 1"),
    ],
)
def test_a_score_for_each_sample_is_needed(change, message):
    damaged = scores({"vt": [100, 0]})
    damaged["results"][0] |= change
    with pytest.raises(ValueError, match=rf"results\[0\].{message}"):
        differences(damaged, damaged)


def test_nothing_heavy_is_imported():
    script = "import sys, hylora_eval.compare; print(*{'torch', 'numpy', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
