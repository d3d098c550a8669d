# SPDX-License-Identifier: Apache-2.0
"""The sparse recall task, against an oracle that reads the tokens and knows nothing of how documents are drawn."""

from __future__ import annotations

import pytest

from hylora.demo.corpus import Document, load_corpus
from hylora.demo.facts import FactTask
from hylora.demo.miniature import load_tokenizer
from hylora_eval.recall import check_sequences, tokenize_recall


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="module")
def task(tokenizer):
    return FactTask(tokenizer, load_corpus("held_out"))


def facts_of(tokenizer, task, ids):
    """(position of the key, key, value) of each `# key value` of the task's words."""
    words = {tokenizer.convert_tokens_to_ids("Ġ" + word): word for word in task.words.keys + task.words.values}
    heading = tokenizer.convert_tokens_to_ids("Ġ#")
    return [
        (place + 1, words[ids[place + 1]], words[ids[place + 2]])
        for place in range(len(ids) - 2)
        if ids[place] == heading
        and words.get(ids[place + 1]) in task.words.keys
        and words.get(ids[place + 2]) in task.words.values
    ]


@pytest.mark.parametrize(
    ("tokens", "options"),
    [
        (63, {}),
        (127, {"facts": 6, "asked": 6}),
        (255, {"facts": 12, "asked": 4, "distance": 64}),
        (256, {"facts": 12, "asked": 2, "where": "end", "distance": 32}),
        (1024, {"facts": 48, "asked": 6, "where": "end"}),
    ],
)
def test_queries_are_where_they_are_said_to_be(tokenizer, task, tokens, options):
    asked, facts = options.get("asked", 4), options.get("facts", 4)
    for number in range(6):
        document = task.document(tokens, f"test-{number}", **options)
        ids = tokenizer(document.text, verbose=False)["input_ids"]
        assert len(ids) == tokens
        found = facts_of(tokenizer, task, ids)
        assert len(found) >= facts + asked
        value_at = {position: (key, value) for position, key, value in found}
        assert len(document.queries) == asked
        for query in document.queries:
            assert value_at[query.position] == value_at[query.needle]
            assert query.distance >= options.get("distance", 0)
        if options.get("where") == "end":
            assert [query.position for query in document.queries] == [tokens - 2 - 3 * k for k in range(asked)][::-1]
    # Answers after their sources, and equal to them.
    check_sequences(tokenize_recall(tokenizer, [document]))


def test_facts_are_stated_once_and_keys_differ(tokenizer, task):
    document = task.document(255, "0", facts=20, asked=5)
    stated = {position for position, *_ in facts_of(tokenizer, task, tokenizer(document.text)["input_ids"])}
    assert len({query.needle for query in document.queries}) == 5
    assert len(stated) == 25


def test_questions_spread_over_the_document(task):
    places = [query for number in range(50) for query in task.document(255, str(number), 4, 4).queries]
    distances = sorted(query.distance for query in places)
    assert distances[0] < 20
    assert distances[-1] > 180
    assert 60 < distances[len(distances) // 2] < 110


def test_documents_depend_on_the_seed_alone(tokenizer, task):
    assert task.document(63, "a") == task.document(63, "a")
    assert task.document(63, "a") != task.document(63, "b")
    assert FactTask(tokenizer, load_corpus("held_out")).document(255, "a") == task.document(255, "a")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"facts": 3}, "asked=4"),
        ({"asked": 0}, "asked=0"),
        ({"facts": 200}, "at most 128"),
        ({"where": "middle"}, "where='middle'"),
        ({"tokens": 24}, "room for 8 facts"),
        ({"distance": 40}, "twice distance=40"),
    ],
)
def test_impossible_documents_are_refused(task, arguments, message):
    with pytest.raises(ValueError, match=message):
        task.document(**{"tokens": 63, "seed": "s", **arguments})


def test_too_little_text_is_refused(tokenizer):
    with pytest.raises(ValueError, match="hold text"):
        FactTask(tokenizer, [])
    with pytest.raises(ValueError, match="too short"):
        FactTask(tokenizer, [Document("a", "x = 1\ny = 2")]).document(63, "s")
