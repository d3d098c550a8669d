# SPDX-License-Identifier: Apache-2.0
"""Data that a run trains on has a name, and other data another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from transformers import ByT5Tokenizer

from hylora.language.data import SourceRecipe

TEXTS = [f"{index:07d}" for index in range(50)]


@pytest.fixture(params=[False, True], ids=["cached", "streamed"])
def name(request, build):
    """The fingerprint of data, cached or streamed."""

    def name(*sources, **options):
        return build(*sources, streaming=request.param, **options).fingerprint

    return name


def test_the_same_data_has_the_same_name_wherever_it_lies(name, write, tmp_path):
    path = write("first/a.jsonl", TEXTS)
    expected = name(path)
    assert len(expected) == 32
    assert name(path) == expected
    (tmp_path / "second").mkdir()
    assert name(str(shutil.copy(path, tmp_path / "second"))) == expected
    assert name(path, seed=5) == expected


def test_other_text_order_and_lengths_have_other_names(name, write):
    names = [
        name(write("a.jsonl", texts))
        for texts in (TEXTS, TEXTS[::-1], TEXTS[:-1], [*TEXTS[:-1], "0000094"], [*TEXTS[1:], TEXTS[0]])
    ]
    assert len(set(names)) == len(names)


def test_other_settings_have_other_names(name, write, make_tokenizer):
    path, other = write("a.jsonl", TEXTS), write("b.jsonl", TEXTS[:20])
    names = [
        name(path),
        name(path, length=16),
        name(path, packing="documents"),
        name(path, validation_fraction=0.3),
        name(path, validation=[other]),
        name(SourceRecipe(path, max_documents=40)),
        name((path, 1), (other, 1)),
        name((path, 1), (other, 2)),
        name(path, tokenizer=make_tokenizer(bos="<bos>")),
        name(path, tokenizer=ByT5Tokenizer()),
    ]
    assert len(set(names)) == len(names)


def test_shuffled_lines_of_a_large_file_are_seen_in_a_stream(build, write):
    texts = [f"{index:06d} {index:06d}" for index in range(20_000)]
    names = {build(write("a.jsonl", part), streaming=True).fingerprint for part in (texts, texts[::-1])}
    assert len(names) == 2


PROGRAM = """
import sys
from transformers import AutoTokenizer
from hylora.language.data import DataRecipe, SourceRecipe, build_datasets

source, folder, streaming = sys.argv[1:]
data = DataRecipe([SourceRecipe(source)], streaming=streaming == "True")
print(build_datasets(data, AutoTokenizer.from_pretrained(folder), 8, 0).fingerprint)
"""


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_another_process_gives_the_same_name(build, write, tokenizer, tmp_path, streaming):
    source = write("a.jsonl", TEXTS)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    command = [sys.executable, "-c", PROGRAM, source, str(tmp_path / "tokenizer"), str(streaming)]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "elsewhere")}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == build(source, streaming=streaming).fingerprint
