# SPDX-License-Identifier: Apache-2.0
"""Needles that no word of the question leads to."""

from __future__ import annotations

import re

import pytest

from hylora_eval import ruler
from hylora_eval.ruler.implied import NAMES, TOPICS

# Words that say nothing by themselves, and the questions' own frame.
EMPTY = "a all and at be by for from got has have in into is it its name of on out so that the them to up was who with"


def content(text):
    """The words that may lead from one text to another, without endings."""
    words = re.findall(r"[a-z]+", text.lower())
    return {re.sub(r"(ing|ed|er|s)$", "", word) for word in words if word not in EMPTY.split()}


@pytest.mark.parametrize("topic", TOPICS)
def test_no_statement_shares_a_word_with_a_question_of_its_topic(topic):
    statements = set().union(*(content(statement) for statement, _ in topic))
    for _, question in topic:
        assert content(question) and not content(question) & statements, question
    assert len({question for _, question in topic}) == len({statement for statement, _ in topic}) == len(topic)


def test_names_are_told_apart_by_the_official_score():
    for name in NAMES:
        assert [other for other in NAMES if ruler.score_prediction("niah_implied_4", other, [name])] == [name]
        assert not any(
            name.lower() in (statement + question).lower() for topic in TOPICS for statement, question in topic
        )


@pytest.mark.parametrize(("task", "needles"), [("niah_implied_1", 1), ("niah_implied_4", 4)])
def test_the_answer_is_whom_the_statement_names(task, needles, tokenizers, essay):
    known = {statement: question for topic in TOPICS for statement, question in topic}
    seen, depths = set(), []
    for record in ruler.generate(task, tokenizers["demo"], 2000, 12, haystack=essay, sentences="rules"):
        named = [name for name in NAMES if name in record.input]
        assert len(named) == needles and record.outputs[0] in named
        told = record.input[slice(*record.evidence[0])]
        question = known[told.replace(record.outputs[0], "{name}")]
        assert f"\nQuestion: {question} " in record.input
        # The others are of the same topic and answer other questions.
        (topic,) = (topic for topic in TOPICS if question in dict(topic).values())
        found = [pair for pair in topic for name in named if pair[0].format(name=name) in record.input]
        assert len({other for _, other in found}) == needles
        assert 1900 < record.length <= 2000 and record.tokens_to_generate == 16
        seen.add(question)
        depths += record.depths
    assert len(seen) > 8 and min(depths) < 0.3 and max(depths) > 0.7


def test_they_are_asked_for_by_name_and_part_of_no_average():
    assert not {"niah_implied_1", "niah_implied_4"} & {*ruler.ALL_TASKS, *sum(ruler.GROUPS.values(), ())}
    assert ruler.resolve_tasks("niah_implied_4") == ("niah_implied_4",)
    with pytest.raises(ValueError, match="niah_implied_1 is no task of the official generator"):
        ruler.generate("niah_implied_1", None, 2000, 1, mode="strict")
