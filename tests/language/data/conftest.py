# SPDX-License-Identifier: Apache-2.0
"""A tokenizer of bytes, whose token streams can be written down by hand, and files to read."""

from __future__ import annotations

import json

import datasets
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hylora.language.data import DataRecipe, SourceRecipe, build_datasets


@pytest.fixture(autouse=True)
def quiet():
    """Progress bars off."""
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def make_tokenizer():
    """Makes tokenizers with a token for each byte, and "<eos>" and "<pad>"."""

    def make(eos="<eos>", chat_template=None, bos=None, **options):
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        backend = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        if bos:
            backend.add_special_tokens([bos])
            number = backend.token_to_id(bos)
            backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, number)])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token=eos, bos_token=bos, pad_token="<pad>", model_max_length=8, **options
        )
        tokenizer.chat_template = chat_template
        return tokenizer

    return make


@pytest.fixture
def tokenizer(make_tokenizer):
    return make_tokenizer()


@pytest.fixture
def write(tmp_path):
    """Writes records: lines of .jsonl, one .txt, or a .parquet; returns the path."""

    def write(name, records):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text(records, encoding="utf-8")
            return str(path)
        records = [{"text": record} if isinstance(record, str) else record for record in records]
        if path.suffix == ".parquet":
            datasets.Dataset.from_list(records).to_parquet(path)
        else:
            path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def build(tmp_path, tokenizer):
    """`build_datasets` with a cache of its own; sources are paths, (path, weight) pairs or `SourceRecipe`s."""
    default = tokenizer

    def as_source(source):
        if isinstance(source, SourceRecipe):
            return source
        path, weight = source if isinstance(source, tuple) else (source, None)
        return SourceRecipe(path, weight=weight)

    def build(*sources, length=8, tokenizer=None, seed=0, validation=(), **options):
        data = DataRecipe(
            sources=[as_source(source) for source in sources],
            validation=[as_source(source) for source in validation],
            cache_dir=str(tmp_path / "cache"),
            **options,
        )
        return build_datasets(data, tokenizer or default, length, seed)

    return build


@pytest.fixture
def show(tokenizer):
    """Rows as text: tokens, and labels with "." for those that are ignored."""

    def show(row, labels=False):
        if not labels:
            return tokenizer.decode(row["input_ids"])
        return "".join("." if label == -100 else tokenizer.decode([label]) for label in row["labels"].tolist())

    return show
