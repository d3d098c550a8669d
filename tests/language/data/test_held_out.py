# SPDX-License-Identifier: Apache-2.0
"""The held-out split: no document on both sides, and none that changes sides."""

from __future__ import annotations

import pytest

TEXTS = [f"{index:04d}" for index in range(400)]


@pytest.fixture
def texts():
    """The documents in rows of one document each."""

    def texts(rows, tokenizer):
        return {tokenizer.decode(row["input_ids"][:4]) for row in rows}

    return texts


def test_each_document_is_on_one_side_and_stays_there(build, write, tokenizer, texts):
    small = build(write("a.jsonl", TEXTS[:200]), validation_fraction=0.25, length=5, seed=0)
    train, held_out = texts(small.train, tokenizer), texts(small.validation, tokenizer)
    assert not train & held_out
    assert train | held_out == set(TEXTS[:200])
    assert 30 < len(held_out) < 70
    # More documents before them, another kind of file, copies and another seed do not move any.
    grown = build(
        write("b.parquet", TEXTS[200:]),
        write("c.jsonl", TEXTS[100::-1]),
        write("a.jsonl", TEXTS[:200]),
        validation_fraction=0.25,
        length=5,
        seed=1,
    )
    assert held_out <= texts(grown.validation, tokenizer)
    assert train <= texts(grown.train, tokenizer)
    assert not texts(grown.validation, tokenizer) & texts(grown.train, tokenizer)
    counts = grown.description["train"]
    assert sum(part["documents"] + part["held_out_documents"] for part in counts) == 200 + 101 + 200


def test_a_larger_share_only_adds_documents(build, write, tokenizer, texts):
    path = write("a.jsonl", TEXTS)
    small = build(path, validation_fraction=0.1, length=5)
    large = build(path, validation_fraction=0.3, length=5)
    assert texts(small.validation, tokenizer) < texts(large.validation, tokenizer)


def test_validation_files_are_taken_out_of_the_training_data(build, write, tokenizer, texts):
    data = build(write("a.jsonl", TEXTS[:20]), validation=[write("b.parquet", TEXTS[15:30])], length=5)
    assert texts(data.validation, tokenizer) == set(TEXTS[15:30])
    assert texts(data.train, tokenizer) == set(TEXTS[:15])
    assert data.description["train"][0]["held_out_documents"] == 5
    assert data.description["validation"][0]["rows"] == 15


def test_too_little_held_out(build, write):
    with pytest.raises(ValueError, match=r"data\.validation_fraction must .* 0 held-out tokens give no row of 8"):
        build(write("a.jsonl", ["abcdefgh" * 10]), validation_fraction=0.001)
    with pytest.raises(ValueError, match=r"data\.validation must .* 3 held-out tokens give no row of 8"):
        build(write("a.jsonl", ["abcdefgh" * 10]), validation=[write("b.jsonl", ["ab"])])


def test_nothing_left_to_train_on(build, write):
    path = write("a.jsonl", ["abcdefgh" * 10])
    message = r"data\.sources\.0\.path=\S+ must .* 0 tokens to train on .*smaller held-out share"
    with pytest.raises(ValueError, match=message):
        build(path, validation=[path])
