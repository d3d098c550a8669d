# SPDX-License-Identifier: Apache-2.0
"""A tokenizer of 96 words and texts of known length."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>"]
WORDS = [f"w{index}" for index in range(len(SPECIAL), 96)]


@pytest.fixture(scope="session")
def tokenizer():
    """One word, one token: "w7" is token 7. It would add a beginning-of-sequence token if it were let."""
    vocabulary = {word: index for index, word in enumerate(SPECIAL + WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>", model_max_length=16)


@pytest.fixture(scope="session")
def write_text():
    """A function that draws a text of so many tokens."""

    def draw(tokens: int, seed: int = 0) -> str:
        return " ".join(random.Random(f"{tokens} {seed}").choices(WORDS, k=tokens))

    return draw
