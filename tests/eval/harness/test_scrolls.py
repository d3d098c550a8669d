# SPDX-License-Identifier: Apache-2.0
"""Qasper and NarrativeQA from a file as SCROLLS has it, without a network."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest

from hylora_eval import harness
from hylora_eval.harness.scrolls import ScrollsTask, answer_f1
from tests.eval.harness.conftest import choice_likelihoods, network


@pytest.mark.parametrize(
    ("prediction", "outputs", "expected"),
    [
        ("The river.", ["a river"], 1.0),
        ("river bank", ["a river"], 2 / 3),
        ("river river bank", ["river of gold", "the bank"], 0.5),
        ("", ["a river"], 0.0),
        ("sea", ["a river", "Sea!"], 1.0),
    ],
)
def test_f1_by_hand(prediction, outputs, expected):
    assert answer_f1(prediction, outputs) == pytest.approx(expected)


def test_f1_is_precision_and_recall():
    words = "red red blue the river"
    for order in permutations(("red", "green", "river")):
        prediction = " ".join(order)
        shared = sum((Counter(order) & Counter(["red", "red", "blue", "river"])).values())
        precision, recall = shared / 3, shared / 4
        assert answer_f1(prediction, [words]) == pytest.approx(2 * precision * recall / (precision + recall))


def test_questions_have_all_their_answers(scrolls_files):
    task = ScrollsTask("scrolls_qasper")
    documents = list(task.validation_docs())
    assert [document["outputs"] for document in documents] == [["Yes", "yes."], ["a river"], ["Unanswerable"]]
    assert task.doc_to_text(documents[0]) == "A long text.\n\nIt is red.\n\nQuestion: Is it red?\nAnswer:"
    assert task.process_results(documents[0], [(-1.0, False), (-2.0, False)]) == {"f1": 100.0}
    assert task.process_results(documents[0], [(-2.0, False), (-1.0, False)]) == {"f1": 0.0}
    assert task.process_results(documents[1], [" the river\u2026"])["f1"] == 0.0
    assert task.process_results(documents[1], [" the river"])["f1"] == 100.0
    assert task.process_results(documents[2], [" "])["f1"] == 100.0
    other = ScrollsTask("scrolls_narrativeqa")
    assert other.process_results(documents[2], [" "])["f1"] == 0.0
    assert other.construct_requests(documents[0], "context").request_type == "generate_until"


def test_both_kinds_of_questions_are_answered(own_tasks_only, scrolls_files, demo_tokenizer):
    model = network()
    tasks = harness.load_tasks(["scrolls_qasper", "scrolls_narrativeqa"], demo_tokenizer)
    lm = harness.wrap(model, demo_tokenizer, max_length=512)
    result = harness.evaluate(lm, [task for found in tasks.values() for task in found], log_samples=True)
    first, second, third = result["samples"]["scrolls_qasper"]
    context = first["arguments"][0][0]
    assert [tuple(request) for request in first["arguments"]] == [(context, " yes"), (context, " no")]
    yes, no = choice_likelihoods(model, demo_tokenizer, context, ["yes", "no"])
    assert [answer[0][0] for answer in first["resps"]] == pytest.approx([yes, no], abs=1e-3)
    assert first["f1"] == (100.0 if yes > no else 0.0)
    assert second["arguments"][0][1]["until"] == ["\n"]
    values = result["results"]["scrolls_qasper"]
    assert values["f1,none"] == pytest.approx(sum(sample["f1"] for sample in (first, second, third)) / 3)
    assert isinstance(values["f1_stderr,none"], float)
    assert result["n-samples"]["scrolls_qasper"] == {"original": 3, "effective": 3}
    samples = result["samples"]["scrolls_narrativeqa"]
    told = [(sample["filtered_resps"][0], sample["doc"]["outputs"]) for sample in samples]
    scores = [100 * answer_f1(answer, outputs) for answer, outputs in told]
    assert len(scores) == 3 and all(answer for answer, _ in told)
    assert result["results"]["scrolls_narrativeqa"]["f1,none"] == pytest.approx(sum(scores) / 3)
    assert result["versions"]["scrolls_qasper"] == 2
