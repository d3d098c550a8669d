# SPDX-License-Identifier: Apache-2.0
"""Nothing is tokenised twice."""

from __future__ import annotations

import subprocess
import sys

import pytest
from transformers import ByT5Tokenizer

from hylora.language.data import DataRecipe, SourceRecipe, build_datasets
from hylora.language.data.documents import DocumentEncoder


@pytest.fixture
def encoded(monkeypatch):
    """Numbers of documents tokenised, call by call."""
    calls = []
    real = DocumentEncoder.__call__

    def counted(self, batch):
        calls.append(len(next(iter(batch.values()))))
        return real(self, batch)

    monkeypatch.setattr(DocumentEncoder, "__call__", counted)
    return calls


def test_another_length_packing_mixture_or_split_reads_the_cache(build, write, encoded, make_tokenizer):
    path = write("a.jsonl", [f"{index:07d}" for index in range(100)])
    build(path)
    assert sum(encoded) == 100
    encoded.clear()
    # A tokenizer of its own, used in between with padding and truncation, is still the same tokenizer.
    other = make_tokenizer()
    other(["abc", "d"], padding="max_length", truncation=True, max_length=4)
    build(path, tokenizer=other, length=16, packing="documents", validation_fraction=0.3, seed=3)
    assert encoded == []


def test_whatever_changes_the_tokens_tokenises_again(build, write, encoded, make_tokenizer):
    path = write("a.jsonl", [f"{index:07d}" for index in range(10)])
    build(path)
    encoded.clear()
    build(path, tokenizer=make_tokenizer(bos="<bos>"))
    assert sum(encoded) == 10
    build(SourceRecipe(path, max_documents=5))
    assert sum(encoded) == 15
    write("a.jsonl", [f"{index:07d}" for index in range(11)])
    data = build(path)
    assert sum(encoded) == 26
    assert data.description["train"][0]["documents"] == 11


def test_a_tokenizer_written_in_python_is_cached_too(build, write, encoded):
    path = write("a.jsonl", ["abcdefg"])
    (row,) = build(path, tokenizer=ByT5Tokenizer()).train
    assert row["input_ids"].tolist() == [*range(100, 107), 1]
    assert sum(encoded) == 1
    build(path, tokenizer=ByT5Tokenizer())
    assert sum(encoded) == 1


def test_several_processes_give_the_same_rows(build, write):
    texts = [f"{index:05d}" * (index % 5) for index in range(50)]
    data = build(write("a.jsonl", texts), num_proc=2)
    alone = build(write("b.jsonl", texts))
    assert [row["input_ids"].tolist() for row in data.train] == [row["input_ids"].tolist() for row in alone.train]


PROGRAM = """
import sys
from transformers import AutoTokenizer
from hylora.language.data import DataRecipe, SourceRecipe, build_datasets
from hylora.language.data.documents import DocumentEncoder

def refuse(self, batch):
    raise SystemExit("tokenised again")

DocumentEncoder.__call__ = refuse
source, cache, folder = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
print(len(build_datasets(DataRecipe([SourceRecipe(source)]), tokenizer, 8, 0, cache).train))
"""


@pytest.mark.slow
def test_another_process_reads_the_cache(write, tokenizer, tmp_path):
    source = write("a.jsonl", ["abcdefghij"] * 10)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    rows = build_datasets(DataRecipe([SourceRecipe(source)]), tokenizer, 8, 0, str(tmp_path / "cache")).train
    command = [sys.executable, "-c", PROGRAM, source, str(tmp_path / "cache"), str(tmp_path / "tokenizer")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split()[-1]) == len(rows)
