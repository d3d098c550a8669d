# SPDX-License-Identifier: Apache-2.0
"""Token files are mapped as they are, and a wrong type is noticed."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import torch

from hylora_eval.documents import load_token_file


@pytest.fixture
def write(tmp_path):
    def write_tokens(tokens, dtype):
        path = tmp_path / "tokens.bin"
        path.write_bytes(np.asarray(tokens, dtype=dtype).tobytes())
        return path

    return write_tokens


@pytest.mark.parametrize(("dtype", "largest"), [("uint16", 65535), ("uint32", 128255)])
def test_the_tokens_are_those_of_the_file(write, dtype, largest):
    tokens = [0, 7, largest, 3, 1]
    found = load_token_file(write(tokens, dtype), dtype)
    assert found.long().tolist() == tokens


def test_a_large_file_stays_where_it_is(tmp_path):
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.write(np.ones(1000, dtype=np.uint16).tobytes())
        file.truncate(1 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tokens = load_token_file(path)
    assert len(tokens) == 1 << 29
    assert int(tokens[900:1100].long().sum()) == 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


def test_uint32_read_as_uint16_is_noticed(write):
    with pytest.raises(ValueError, match="holds uint32"):
        load_token_file(write([5, 6, 7], "uint32"))


def test_uint16_read_as_uint32_falls_out_of_the_vocabulary(write):
    from hylora_eval.perplexity import perplexity
    from tests.tiny import tiny_llama

    tokens = load_token_file(write([5, 6, 7, 8], "uint16"), "uint32")
    with pytest.raises(ValueError, match="token ids from 393221 to 524295, the model knows 0 to 95"):
        perplexity(tiny_llama(), [tokens], 2)


@pytest.mark.parametrize(
    ("content", "dtype", "message"),
    [
        (b"", "uint16", "has 0 bytes"),
        (b"abc", "uint16", "has 3 bytes"),
        (b"abcdef", "uint32", "6 bytes, which is not one or more uint32"),
        (b"abcd", "int64", "dtype='int64'"),
    ],
)
def test_wrong_files_are_named(tmp_path, content, dtype, message):
    (tmp_path / "tokens.bin").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_token_file(tmp_path / "tokens.bin", dtype)


def test_a_missing_file_comes_with_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not exist\. LongLoRA's token files .*LongLoRA, under"):
        load_token_file(tmp_path / "validation.bin")


def test_one_token_is_a_file(write):
    assert torch.equal(load_token_file(write([9], "uint16")).long(), torch.tensor([9]))
