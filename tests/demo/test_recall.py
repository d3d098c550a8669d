# SPDX-License-Identifier: Apache-2.0
"""The recall task, against an oracle that reads the tokens and knows nothing of how documents are drawn."""

from __future__ import annotations

import pytest

from hylora.demo.corpus import load_corpus
from hylora.demo.recall import RecallTask
from hylora.demo.tokenizer import END_OF_TEXT, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((document.text for document in load_corpus("held_out")), vocab_size=1536)


@pytest.fixture(scope="module")
def task(tokenizer):
    return RecallTask.for_tokenizer(tokenizer, words=160)


def oracle(tokens):
    """(position, distance, answer) of every key that came before, from the tokens alone."""
    seen, found = {}, []
    for position in range(1, len(tokens) - 1, 2):
        key = tokens[position]
        if key in seen:
            found.append((position, position - seen[key], tokens[seen[key] + 1]))
        seen[key] = position
    return found


@pytest.mark.parametrize(("tokens", "repeats"), [(5, 2), (63, 4), (63, 2), (129, 3), (255, 2)])
def test_queries_have_the_claimed_distances_and_answers(tokenizer, task, tokens, repeats):
    for number in range(5):
        document = task.document(tokens, f"test-{number}", repeats)
        ids = tokenizer(document.text)["input_ids"]
        assert len(ids) == tokens
        found = oracle(ids)
        assert [(query.position, query.distance) for query in document.queries] == [
            (position, distance) for position, distance, _ in found
        ]
        assert [ids[query.position + 1] for query in document.queries] == [answer for *_, answer in found]


def test_documents_depend_on_the_seed_alone(task):
    assert task.document(63, "a") == task.document(63, "a")
    assert task.document(63, "a") != task.document(63, "b")
    # A fixed draw: another order of draws would change every figure that names a seed.
    assert RecallTask(("a", "b"), ("x", "y")).document(9, "0", repeats=2).text.split(" ")[0] == "#"


def test_keys_and_values_are_disjoint_single_tokens(tokenizer, task):
    assert len(task.keys) == len(task.values) == 80
    assert set(task.keys).isdisjoint(task.values)
    assert all(len(tokenizer(" " + word)["input_ids"]) == 1 for word in task.keys + task.values)


def test_bindings_change_between_documents(task):
    def binding(seed):
        words = task.document(63, seed).text.split(" ")[1:]
        return dict(zip(words[::2], words[1::2], strict=True))

    first, second = binding("0"), binding("1")
    shared = set(first) & set(second)
    assert shared
    assert any(first[key] != second[key] for key in shared)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((62, "s"), "odd"), ((3, "s"), "at least 5"), ((63, "s", 1), "repeats"), ((1023, "s", 2), "keys")],
)
def test_impossible_documents_are_refused(task, arguments, message):
    with pytest.raises(ValueError, match=message):
        task.document(*arguments)


def test_too_few_words_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"words=\d+ must be at most"):
        RecallTask.for_tokenizer(tokenizer, words=5000)


def test_tokenizer_round_trips_any_text(tokenizer):
    text = "def f(x):\n\treturn x  # café, 数字, \u0000\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids(END_OF_TEXT) == 0
    with pytest.raises(ValueError, match="vocab_size"):
        train_tokenizer(["text"], vocab_size=100)
