# SPDX-License-Identifier: Apache-2.0
"""Documents come in order, whole, without special tokens, and only those that are long enough."""

from __future__ import annotations

import json

import pytest
import torch

from hylora.language.data.recipe import SourceRecipe
from hylora_eval.documents import load_documents, tokens_sha256


@pytest.fixture
def folder(tmp_path, write_text):
    for name, tokens in (("a", 30), ("b", 8), ("c", 50), ("d", 40)):
        (tmp_path / f"{name}.txt").write_text(write_text(tokens))
    return tmp_path


def lengths(documents):
    return [len(document) for document in documents.tokens]


def test_a_text_file_is_one_document(folder, tokenizer):
    documents = load_documents(SourceRecipe(str(folder / "b.txt")), tokenizer)
    expected = [int(word[1:]) for word in (folder / "b.txt").read_text().split()]
    assert [document.tolist() for document in documents.tokens] == [expected]
    assert documents.tokens[0].dtype == torch.long


def test_a_folder_is_read_in_the_order_of_names(folder, tokenizer):
    assert lengths(load_documents(SourceRecipe(str(folder)), tokenizer)) == [30, 8, 50, 40]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_records_with_another_field(tmp_path, tokenizer, write_text, suffix):
    import datasets

    records = [{"body": write_text(9), "id": 1}, {"body": write_text(5), "id": 2}]
    path = tmp_path / f"data.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        datasets.Dataset.from_list(records).to_parquet(path)
    assert lengths(load_documents(SourceRecipe(str(path), text_field="body"), tokenizer)) == [9, 5]
    with pytest.raises(ValueError, match="text_field='text' must be a field"):
        load_documents(SourceRecipe(str(path)), tokenizer)


def test_short_documents_are_counted_and_do_not_use_up_the_limit(folder, tokenizer):
    documents = load_documents(SourceRecipe(str(folder), max_documents=2), tokenizer, min_tokens=35)
    assert lengths(documents) == [50, 40]
    assert documents.skipped == 2


def test_reading_stops_at_the_limit(folder, tokenizer):
    told = []
    documents = load_documents(SourceRecipe(str(folder), max_documents=1), tokenizer, progress=told.append)
    assert lengths(documents) == [30] and told == [1]


def test_documents_are_cut(folder, tokenizer):
    assert lengths(load_documents(SourceRecipe(str(folder)), tokenizer, min_tokens=10, max_tokens=32)) == [30, 32, 32]


def test_no_document_long_enough_names_the_longest(folder, tokenizer):
    with pytest.raises(ValueError, match="none of the 4 documents .* has 64 tokens; the longest has 50"):
        load_documents(SourceRecipe(str(folder)), tokenizer, min_tokens=64)


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ({"path": "absent.txt"}, {}, "does not exist"),
        ({"path": "empty.txt"}, {}, "must hold documents"),
        ({"path": "empty.jsonl"}, {}, "must hold documents"),
        ({"path": "a.txt", "kind": "chat"}, {}, "data.kind='chat' must be 'text'"),
        ({"path": "a.txt"}, {"min_tokens": 8, "max_tokens": 4}, "max_tokens=4 must be at least the 8 tokens"),
        ({"path": "a.txt", "max_documents": 0}, {}, "max_documents"),
    ],
)
def test_wrong_sources_are_named(folder, tokenizer, source, arguments, message):
    (folder / "empty.txt").touch()
    (folder / "empty.jsonl").touch()
    source["path"] = str(folder / source["path"])
    with pytest.raises(ValueError, match=message):
        load_documents(SourceRecipe(**source), tokenizer, **arguments)


def test_a_record_without_text_is_an_empty_document(tmp_path, tokenizer, write_text):
    records = [{"text": write_text(9)}, {"text": None}, {"text": write_text(5)}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    documents = load_documents(SourceRecipe(str(tmp_path / "data.jsonl")), tokenizer)
    assert (lengths(documents), documents.skipped) == ([9, 5], 1)


def test_what_is_found_wrong_while_reading_is_explained(tmp_path, tokenizer, write_text):
    (tmp_path / "a.txt").write_text(write_text(9))
    (tmp_path / "b.txt").write_bytes(b"\xff\xe9")
    (tmp_path / "numbers.jsonl").write_text('{"text": 5}\n')
    with pytest.raises(ValueError, match=r"data\.path=.* could not be read to its end \(UnicodeDecodeError"):
        load_documents(SourceRecipe(str(tmp_path / "*.txt")), tokenizer)
    with pytest.raises(ValueError, match=r"'text' holds 5, which is not text"):
        load_documents(SourceRecipe(str(tmp_path / "numbers.jsonl")), tokenizer)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("pg19.jsonl", "emozilla/pg19"),
        ("books/PG-19/", "emozilla/pg19"),
        ("proof-pile.parquet", "emozilla/proofpile-test-tokenized-mistral"),
    ],
)
def test_a_missing_corpus_comes_with_where_to_get_it(tokenizer, path, place):
    with pytest.raises(ValueError, match=f"does not exist.*{place}"):
        load_documents(SourceRecipe(path), tokenizer)


def test_a_dataset_that_is_a_loading_script_is_refused_with_another_place(monkeypatch, tokenizer):
    import datasets

    def refuse(*arguments, **options):
        raise RuntimeError("Dataset scripts are no longer supported, but found pg19.py")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ValueError, match=r"'deepmind/pg19' must be .* pg19\.py.*'emozilla/pg19'"):
        load_documents(SourceRecipe("deepmind/pg19"), tokenizer)


def test_fingerprint_tells_documents_apart():
    one, two = torch.tensor([1, 2, 3]), torch.tensor([4])
    assert tokens_sha256([one, two]) == tokens_sha256([one.clone(), two.clone()])
    assert len({tokens_sha256(parts) for parts in ([one, two], [two, one], [torch.cat([one, two])], [one])}) == 4


def test_fingerprint_depends_on_the_tokens_alone(monkeypatch):
    import hylora_eval.documents as module

    tokens = torch.arange(100)
    expected = tokens_sha256([tokens])
    assert tokens_sha256([tokens.to(torch.uint16)]) == expected
    monkeypatch.setattr(module, "_BLOCK", 7)
    assert tokens_sha256([tokens]) == expected
