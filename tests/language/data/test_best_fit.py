# SPDX-License-Identifier: Apache-2.0
"""Whole documents in rows by best-fit decreasing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hylora.language.data import DataRecipe, Padding, SourceRecipe
from hylora.language.data.packing import best_fit


def rows_by_hand(lengths, capacity):
    """Rows as lists of pieces, by looking at every row for every piece."""
    rows = []
    for piece in sorted(range(len(lengths)), key=lambda piece: -lengths[piece]):
        taken = [sum(lengths[other] for other in row) for row in rows]
        fitting = [row for row in range(len(rows)) if taken[row] + lengths[piece] <= capacity]
        if fitting:
            rows[max(fitting, key=lambda row: taken[row])].append(piece)
        else:
            rows.append([piece])
    return rows


@settings(deadline=None, max_examples=100)
@given(lengths=st.lists(st.integers(1, 16), min_size=1, max_size=60))
def test_rows_are_as_full_as_those_made_by_hand(lengths):
    order, first = best_fit(np.array(lengths), 16)
    rows = [order[start:stop].tolist() for start, stop in zip(first[:-1], first[1:], strict=True)]
    assert sorted(order) == list(range(len(lengths)))

    def fillings(rows):
        return sorted(sum(lengths[piece] for piece in row) for row in rows)

    assert fillings(rows) == fillings(rows_by_hand(lengths, 16))
    assert all(row == sorted(row) for row in rows)
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)


def test_little_of_the_rows_is_empty():
    """The paper's finding on web text, whose lengths are log-normal: well under 1 % of the places hold padding."""
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(5.5, 1.1, 20_000).astype(np.int64), 1, 2048)
    _, first = best_fit(lengths, 2048)
    assert lengths.sum() / ((len(first) - 1) * 2048) > 0.995


TEXTS = ["abcde", "fg", "hijklmnop", "q", "rstuv"]  # and an EOS each: 6, 3, 10, 2, 6


@pytest.mark.parametrize("packing", ["eos", "documents"])
def test_only_documents_longer_than_a_row_are_cut(build, write, show, packing):
    path = write("a.jsonl", TEXTS)
    data = build(path, packing=packing, packing_strategy="best_fit")
    # Pieces of 8, 6, 6, 3, 2 and 2 tokens: each two goes to a six.
    rows = [show(row) for row in data.train]
    assert rows == ["abcde<eos>q<eos>", "fg<eos>", "hijklmno", "p<eos>rstuv<eos>"]
    (counts,) = data.description["train"]
    assert (counts["rows"], counts["dropped_tokens"], counts["dropped_rows"]) == (4, 0, 0)
    assert data.fingerprint != build(path, packing=packing).fingerprint
    again = build(path, packing=packing, packing_strategy="best_fit")
    assert again.fingerprint == data.fingerprint and [show(row) for row in again.train] == rows


def test_a_shorter_row_is_padded_by_a_document_of_its_own(build, write):
    rows = build(write("a.jsonl", TEXTS), packing="documents", packing_strategy="best_fit").train
    batch = Padding()([rows[0], rows[1]])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 0, 1], [0, 1, 2, 0, 1, 2, 3, 4]]
    assert batch["labels"][1, 3:].tolist() == [-100] * 5
    assert "attention_mask" not in batch


def test_weights_and_validation(build, write, show):
    first, second = write("a.jsonl", TEXTS), write("b.jsonl", ["wxyz123"] * 6)
    data = build((first, 1.0), (second, 2.0), packing_strategy="best_fit")
    assert [counts["rows_per_epoch"] for counts in data.description["train"]] == [4, 8]
    data = build(second, validation=[first], packing_strategy="best_fit")
    assert [show(row) for row in data.validation] == [
        "abcde<eos>q<eos>",
        "fg<eos>",
        "hijklmno",
        "p<eos>rstuv<eos>",
    ]


def test_chats_are_whole_and_only_their_answers_are_learned(build, write, show, make_tokenizer):
    template = "{% for m in messages %}{{ m.role[0] + ':' + m.content }}{% endfor %}"
    tokenizer = make_tokenizer(chat_template=template)
    questions = ["ab", "cdefghi", "j"]
    chats = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text.upper()}]}
        for text in questions
    ]
    source = SourceRecipe(write("a.jsonl", chats), kind="chat")
    rows = build(source, length=24, tokenizer=tokenizer, packing="documents", packing_strategy="best_fit").train
    assert [show(row) for row in rows] == ["u:aba:AB<eos>u:ja:J<eos>", "u:cdefghia:CDEFGHI<eos>"]
    assert [show(row, labels=True) for row in rows] == ["....a:AB....a:J.", ".........a:CDEFGHI."]


@pytest.mark.parametrize("options", [{"streaming": True}, {"packing": "none"}])
def test_what_cannot_be_packed_so_is_refused(options):
    with pytest.raises(ValueError, match=r"packing_strategy='best_fit' must not come with data\.\w+=.*sequential"):
        DataRecipe([SourceRecipe("x")], packing_strategy="best_fit", **options)
