# SPDX-License-Identifier: Apache-2.0
"""Recall by distance, on a model that remembers exactly so far."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from hylora_eval.recall import RecallSequence, recall_by_distance
from tests.eval.known import KnownModel
from tests.tiny import tiny_bamba, tiny_llama

VOCABULARY = 50


def remembering_model(reach):
    """Predicts what followed the current token when it last came, if the answer then lies at most `reach` back."""

    def table(ids):
        logits = torch.zeros(*ids.shape, VOCABULARY)
        for row, tokens in enumerate(ids.tolist()):
            for t, token in enumerate(tokens):
                before = [s for s in range(t) if tokens[s] == token and t - s <= reach]
                logits[row, t, tokens[before[-1] + 1] if before else 0] = 1.0
        return logits

    return KnownModel(table, VOCABULARY)


def sequence(*gaps):
    """Facts "key value" asked again after so many tokens of filling each."""
    ids, answers, sources = [1], [], []
    for number, gap in enumerate(gaps):
        key, value = 10 + 2 * number, 11 + 2 * number
        sources.append(len(ids) + 1)
        ids += [key, value] + [2] * gap + [key, value]
        answers.append(len(ids) - 1)
    positions = torch.tensor([answers, sources], dtype=torch.long)
    return RecallSequence(torch.tensor(ids), *positions)


def test_accuracy_falls_to_nothing_beyond_the_models_reach():
    # the gaps make distances of gap + 2
    sequences = [sequence(0, 2, 6, 14), sequence(1, 3, 7, 15)]
    result = recall_by_distance(remembering_model(reach=5), sequences, (0, 4, 8, 16, 32))
    assert [(part.start, part.stop, part.accuracy, part.answers) for part in result.bins] == [
        (0, 4, 1.0, 2),
        (4, 8, 1.0, 2),
        (8, 16, 0.0, 2),
        (16, 32, 0.0, 2),
    ]
    assert (result.accuracy, result.answers, result.sequences) == (0.5, 8, 2)
    assert (result.sequence_right, result.sequence_answers) == ((2, 2), (4, 4))


def test_an_empty_bin_says_so():
    result = recall_by_distance(remembering_model(5), [sequence(0)], (0, 4, 8))
    assert result.bins[0].accuracy == 1.0 and result.bins[0].standard_error is None
    assert (result.bins[1].accuracy, result.bins[1].standard_error, result.bins[1].answers) == (None, None, 0)


def test_standard_error_is_over_sequences():
    sequences = [sequence(0, 0), sequence(0, 9), sequence(9, 9), sequence(0, 0), sequence(0, 9)]
    result = recall_by_distance(remembering_model(5), sequences, (0, 20))
    shares = [1, 0.5, 0, 1, 0.5]
    assert result.accuracy == pytest.approx(statistics.fmean(shares))
    assert result.standard_error == pytest.approx(statistics.stdev(shares) / math.sqrt(5))


@pytest.mark.parametrize("build", [tiny_bamba, tiny_llama], ids=["bamba", "llama"])
def test_equals_a_naive_loop_whatever_the_batches(build):
    model = build().double()
    generator = torch.Generator().manual_seed(0)
    sequences = []
    for length in (20, 20, 14, 20):
        ids = torch.randint(6, (length,), generator=generator)
        pairs = [(t, s) for t in range(1, length) for s in range(t) if ids[t] == ids[s]]
        answers, sources = torch.tensor(pairs).T
        sequences.append(RecallSequence(ids, answers, sources))
    expected = []
    for part in sequences:
        guesses = model(part.input_ids[None], use_cache=False).logits[0].argmax(-1)
        expected += [int(guesses[t - 1] == part.input_ids[t]) for t in part.answers]
    for batch_size, slice_length in ((1, 1000), (3, 4)):
        result = recall_by_distance(model, sequences, (0, 20), batch_size, slice_length)
        assert result.answers == len(expected)
        assert result.accuracy == pytest.approx(statistics.fmean(expected))
    assert result.attention == "sdpa"


def test_the_result_is_plain_json():
    result = recall_by_distance(remembering_model(5), [sequence(0)], (0, 4))
    assert result.to_dict()["bins"] == [{"start": 0, "stop": 4, "accuracy": 1.0, "standard_error": None, "answers": 1}]


def broken(**change):
    part = sequence(3)
    return RecallSequence(**{**vars(part), **change})


@pytest.mark.parametrize(
    ("sequences", "edges", "message"),
    [
        ([sequence(3)], (0,), "at least two increasing"),
        ([sequence(3)], (0, 8, 8), "at least two increasing"),
        ([sequence(3)], (0, 4), "distances go from 5 to 5, outside of the bins 0 to 4"),
        ([], (0, 8), "no answer to recall"),
        ([sequence()], (0, 8), "no answer to recall"),
        ([sequence(3), broken(answers=torch.tensor([99]))], (0, 8), "sequence 1: every source must come before"),
        ([broken(sources=torch.tensor([7]))], (0, 8), "sequence 0: every source must come before"),
        ([broken(sources=torch.tensor([1]))], (0, 8), "sequence 0: an answer differs from the token at its source"),
        ([broken(sources=torch.tensor([1, 2]))], (0, 8), "two lists of positions of the same length"),
        ([broken(answers=torch.tensor([6.0]))], (0, 8), "torch.float32"),
    ],
)
def test_wrong_input_is_named(sequences, edges, message):
    with pytest.raises(ValueError, match=message):
        recall_by_distance(remembering_model(5), sequences, edges)
