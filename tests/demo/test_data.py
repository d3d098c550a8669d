# SPDX-License-Identifier: Apache-2.0
"""The demo's files give rows in which the answers, and nothing else, are learned."""

from __future__ import annotations

import json

import pytest

from hylora.demo.corpus import Document, load_corpus
from hylora.demo.data import write_facts, write_recall, write_text
from hylora.demo.facts import FactTask
from hylora.demo.miniature import load_tokenizer
from hylora.demo.recall import RecallTask
from hylora.language.data import DataRecipe, SourceRecipe, build_datasets


def test_recall_rows_are_whole_documents_with_labelled_answers(tmp_path):
    tokenizer = load_tokenizer()
    task = RecallTask.for_tokenizer(tokenizer)
    write_recall(tmp_path / "recall.jsonl", task, documents=3, length=64, seed="s")
    source = SourceRecipe(path=str(tmp_path / "recall.jsonl"), kind="chat")
    data = DataRecipe(sources=[source], cache_dir=str(tmp_path / "cache"))
    rows = build_datasets(data, tokenizer, sequence_length=64, seed=0).train
    assert len(rows) == 3
    for number in range(3):
        document = task.document(63, f"s-{number}")
        ids, labels = rows[number]["input_ids"].tolist(), rows[number]["labels"].tolist()
        assert tokenizer.decode(ids[:-1]) == document.text
        assert ids[-1] == tokenizer.eos_token_id
        answers = {query.position + 1 for query in document.queries}
        assert labels == [token if place in answers else -100 for place, token in enumerate(ids)]


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_rows_of_text_with_facts_teach_the_answers_alone_or_all(tmp_path, kind):
    tokenizer = load_tokenizer()
    task = FactTask(tokenizer, load_corpus("held_out"))
    write_facts(tmp_path / "facts.jsonl", task, documents=20, length=64, facts=4, seed="s")
    source = SourceRecipe(path=str(tmp_path / "facts.jsonl"), kind=kind)
    data = DataRecipe(sources=[source], cache_dir=str(tmp_path / "cache"))
    rows = build_datasets(data, tokenizer, sequence_length=64, seed=0).train
    assert len(rows) == 20
    for number in range(20):
        document = task.document(63, f"s-{number}")
        ids, labels = rows[number]["input_ids"].tolist(), rows[number]["labels"].tolist()
        assert tokenizer.decode(ids[:-1]) == document.text
        answers = {query.position + 1 for query in document.queries}
        learned = [token if kind == "text" or place in answers else -100 for place, token in enumerate(ids)]
        assert labels == learned


def test_text_keeps_names_and_content(tmp_path):
    documents = [Document("a.py", "x = 1\n"), Document("b/c.py", 'é = "\u2028"\n')]
    write_text(tmp_path / "deep" / "text.jsonl", documents)
    records = [json.loads(line) for line in (tmp_path / "deep" / "text.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert [Document(**record) for record in records] == documents
