# SPDX-License-Identifier: Apache-2.0
"""Rows of the full length from documents: what is in them, and that nothing is lost or moved."""

from __future__ import annotations

import pickle

import datasets
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hylora.language.data import SourceRecipe
from hylora.language.data.packing import PackedRows


def test_documents_are_joined_by_eos_and_cut(build, write, show):
    data = build(write("a.jsonl", ["abcde", "fg", "hijklmnop", "q"]))
    # abcde<eos>fg <eos>hijklmn op<eos>q<eos> (the tail of 5 is dropped)
    assert [show(row) for row in data.train] == ["abcde<eos>fg", "<eos>hijklmn"]
    for row in data.train:
        assert row["input_ids"].dtype == torch.int64
        assert torch.equal(row["input_ids"], row["labels"])
        assert set(row) == {"input_ids", "labels"}
    assert data.validation is None
    (counts,) = data.description["train"]
    assert counts | {"path": ""} == {
        "path": "",
        "documents": 4,
        "tokens": 21,
        "rows": 2,
        "dropped_documents": 0,
        "dropped_tokens": 5,
        "dropped_rows": 0,
        "held_out_documents": 0,
    }


@pytest.mark.parametrize("length", [2, 3, 7, 64, 1000])
def test_every_token_is_used_once_and_in_order(build, write, tokenizer, length):
    texts = [f"{'word ' * (index % 17)}{index}\n" for index in range(300)]
    data = build(write("a.parquet", texts), length=length)
    stream = [token for text in texts for token in [*tokenizer(text, verbose=False).input_ids, tokenizer.eos_token_id]]
    got = torch.cat([row["input_ids"] for row in data.train]).tolist()
    assert got == stream[: len(stream) // length * length]
    assert data.description["train"][0]["dropped_tokens"] == len(stream) % length


def test_eos_is_not_doubled(build, write, show):
    data = build(write("a.jsonl", ["abc<eos>", "defghij"]))
    assert [show(row) for row in data.train] == ["abc<eos>defg"]


def test_bos_starts_each_document_when_the_tokenizer_adds_one(build, write, make_tokenizer):
    tokenizer = make_tokenizer(bos="<bos>")
    data = build(write("a.jsonl", ["ab", "cdef"]), tokenizer=tokenizer, length=10)
    assert tokenizer.decode(data.train[0]["input_ids"]) == "<bos>ab<eos><bos>cdef<eos>"


def test_a_text_file_is_one_document_and_nothing_is_cleaned(build, write, show):
    folder = write("texts/b.txt", "  two\n\n").rsplit("/", 1)[0]
    write("texts/a.txt", "\ton\n e ")
    write("texts/.hidden.txt", "no")
    write("texts/sub/c.txt", "3")
    data = build(folder, length=17)
    assert show(data.train[0]) == "\ton\n e <eos>  two\n\n<eos>3"
    assert data.description["train"][0]["documents"] == 3


def test_a_glob_and_a_file_with_brackets_in_its_name(build, write, show):
    write("x/a[1].txt", "first")
    path = write("x/b.txt", "second")
    assert show(build(path.replace("b.txt", "*.txt"), length=13).train[0]) == "first<eos>second<eos>"
    assert show(build(path.replace("b.txt", "a[1].txt"), length=6).train[0]) == "first<eos>"


def test_max_documents(build, write, show):
    data = build(SourceRecipe(write("a.jsonl", ["abc", "def", "ghi"]), max_documents=2))
    assert [show(row) for row in data.train] == ["abc<eos>def<eos>"]


def test_packed_documents_have_positions_of_their_own(build, write, show):
    data = build(write("a.jsonl", ["abcde", "fg", "hijklmnop"]), packing="documents")
    first, second = data.train
    assert show(first) == "abcde<eos>fg"
    assert first["position_ids"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    # No token is learned from the end of another document.
    assert show(first, labels=True) == ".bcde<eos>.g"
    # A document that is cut begins again, so that no position reaches beyond the row.
    assert second["position_ids"].tolist() == [0, 0, 1, 2, 3, 4, 5, 6]
    assert show(second, labels=True) == "..ijklmn"


def test_unpacked_documents_are_cut_each_by_itself(build, write, show):
    data = build(write("a.jsonl", ["abcdefghij", "xyz", "01234567"]), packing="none")
    # The last row of "01234567<eos>" is one token, which has nothing to predict.
    assert [show(row) for row in data.train] == ["abcdefgh", "ij<eos>", "xyz<eos>", "01234567"]
    (counts,) = data.description["train"]
    assert (counts["tokens"], counts["dropped_tokens"], counts["dropped_rows"]) == (24, 1, 1)


def test_a_tokenizer_without_eos_is_enough_when_documents_stay_apart(build, write, make_tokenizer):
    path = write("a.jsonl", ["abcdefgh", "ijk"])
    bare = make_tokenizer(eos=None)
    assert [len(row["input_ids"]) for row in build(path, packing="none", tokenizer=bare).train] == [8, 3]
    with pytest.raises(ValueError, match=r"data\.packing='eos' must come with .*set tokenizer\.eos_token"):
        build(path, tokenizer=bare)


def test_rows_survive_a_move_to_another_process(build, write):
    rows = build(write("a.jsonl", ["abcdefghij" * 3])).train
    before = [row["input_ids"].tolist() for row in rows]
    payload = pickle.dumps(rows)
    assert [row["input_ids"].tolist() for row in pickle.loads(payload)] == before


def packed_by_hand(documents, length, packing):
    """Rows of (tokens, labels, positions), token by token; documents are lists of (token, label)."""
    rows, row = [], []
    for document in documents:
        for place, (token, label) in enumerate(document):
            starts = place == 0 or not row
            position = 0 if starts else row[-1][2] + 1
            row.append((token, -100 if starts and packing == "documents" else label, position))
            if len(row) == length or (packing == "none" and place == len(document) - 1):
                rows.append(row)
                row = []
    return [row for row in rows if any(label != -100 for _, label, _ in row[1:])]


document_lists = st.lists(
    st.lists(st.tuples(st.integers(0, 99), st.booleans()), min_size=1, max_size=20), min_size=1, max_size=12
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    documents=document_lists,
    length=st.integers(2, 12),
    packing=st.sampled_from(["eos", "documents", "none"]),
    chosen=st.sets(st.integers(0, 11)),
)
def test_rows_are_those_made_by_hand(documents, length, packing, chosen):
    documents = [[(token, token if learned else -100) for token, learned in document] for document in documents]
    # In two pieces, as several processes leave them.
    halves = [documents[: len(documents) // 2], documents[len(documents) // 2 :]]
    features = datasets.Features({name: datasets.List(datasets.Value("int32")) for name in ("input_ids", "labels")})
    dataset = datasets.concatenate_datasets(
        [
            datasets.Dataset.from_dict(
                {
                    "input_ids": [[token for token, _ in document] for document in half],
                    "labels": [[label for _, label in document] for document in half],
                },
                features=features,
            )
            for half in halves
        ]
    )
    indices = np.array(sorted(index for index in chosen if index < len(documents)), dtype=np.int64)
    rows = PackedRows(dataset, indices, length, packing)
    expected = packed_by_hand([documents[index] for index in indices], length, packing)
    assert len(rows) == len(expected)
    for index, row in enumerate(expected):
        tokens, labels, positions = (list(values) for values in zip(*row, strict=True))
        assert rows[index]["input_ids"].tolist() == tokens
        assert rows[index]["labels"].tolist() == labels
        if packing == "documents":
            assert rows[index]["position_ids"].tolist() == positions
    assert rows.tokens - rows.dropped_tokens == sum(len(row) for row in expected)


def test_rows_end(build, write):
    rows = build(write("a.jsonl", ["abcdefghij"])).train
    with pytest.raises(IndexError):
        rows[len(rows)]


@pytest.mark.parametrize("split_special_tokens", [False, True])
def test_a_tokenizer_gives_the_tokens_of_an_ordinary_call(build, write, make_tokenizer, split_special_tokens):
    texts = ["a  b<eos>c\tdé", "<bos> x <pad>y ", "z" * 30]
    tokenizer = make_tokenizer(bos="<bos>", split_special_tokens=split_special_tokens)
    expected = [[*tokenizer(text, verbose=False).input_ids, tokenizer.eos_token_id] for text in texts]
    # What an earlier call asked for is of no account.
    tokenizer(["abc", "d"], padding="max_length", truncation=True, max_length=4)
    rows = build(write("a.jsonl", texts), tokenizer=tokenizer, length=32, packing="none").train
    assert [row["input_ids"].tolist() for row in rows] == expected


def test_long_documents_do_not_warn(build, write, caplog):
    build(write("a.jsonl", ["abcdefghij" * 100]))
    assert "longer than the specified maximum" not in caplog.text
