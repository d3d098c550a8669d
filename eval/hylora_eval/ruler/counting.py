# SPDX-License-Identifier: Apache-2.0
"""Counting the tokens of prompts, of those that are long by their parts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

__all__ = ["TokenCounter", "leading_tokens", "prompt_tokens"]

# Parts remembered; those of one sample at 128k tokens are at most some ten thousands.
REMEMBERED = 200_000
# Characters of a line that is a part of its own; longer lines are cut into words.
LINE = 400

_LINES = re.compile(r"[^\n]*\n+|[^\n]+")


def leading_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens, such as BOS, that a tokenizer puts before a text; what it appends is no part of a prompt."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    special = tokenizer("a")["input_ids"]
    for start in range(len(special) - len(plain) + 1):
        if special[start : start + len(plain)] == plain:
            return list(special[:start])
    return []


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, leading: bool = True) -> list[int]:
    """The tokens of a prompt as a model reads it.

    Args:
        tokenizer: any transformers tokenizer.
        prompt: its text.
        leading: put the tokenizer's special tokens first; a chat template has brought its own.
    """
    # `verbose` would warn that a prompt exceeds the model's context, which is the point here.
    ids = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
    return leading_tokens(tokenizer) + ids if leading else ids


class TokenCounter:
    """Counts the tokens of prompts.

    A prompt of a hundred thousand tokens is mostly haystack that repeats itself, word for word or line for line. Cut
    where tokenizers cut too, its tokens are the sum of its parts', and each part is tokenised once.

    Args:
        tokenizer: any transformers tokenizer.
        leading: count the special tokens that it puts first.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, leading: bool = True) -> None:
        self._tokenizer = tokenizer
        self._leading = len(leading_tokens(tokenizer)) if leading else 0
        self._known: dict[str, int] = {}

    def plain(self, text: str) -> int:
        """Tokens of a text without special tokens."""
        return len(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def whole(self, prompt: str) -> int:
        """Tokens of a prompt, with those that the tokenizer puts before it."""
        return self._leading + self.plain(prompt)

    def by_parts(self, prompt: str) -> int:
        """The same, sooner; a few tokens wrong where the tokenizer's tokens reach over parts."""
        parts = _parts(prompt)
        if len(parts) < 3:
            return self.whole(prompt)
        # The first and the last have neighbours on one side only; they are counted as they stand.
        inner = Counter(parts[1:-1])
        self._learn(inner)
        known = self._known
        return self.whole(parts[0] + parts[-1]) + sum(known[part] * times for part, times in inner.items())

    def _learn(self, parts: Iterable[str]) -> None:
        new = [part for part in parts if part not in self._known]
        if not new:
            return
        if len(self._known) + len(new) > REMEMBERED:
            self._known = {}
            new = list(parts)
        # Something stands around a part, so that it is tokenised as within a text.
        around = [("A" if part.startswith(" ") else "\n", "A" if part.endswith("\n") else " A") for part in new]
        alone = {ends: self.plain("".join(ends)) for ends in set(around)}
        texts = [before + part + after for part, (before, after) in zip(new, around, strict=True)]
        ids = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        for part, ends, tokens in zip(new, around, ids, strict=True):
            self._known[part] = len(tokens) - alone[ends]


def _parts(text: str) -> list[str]:
    """Lines, and of long lines the words with the space before each; nothing is cut beside further white space."""
    parts: list[str] = []
    for line in _LINES.findall(text):
        if parts and line[0].isspace():
            parts[-1] += line
        elif len(line) <= LINE or "  " in line or " \n" in line:
            parts.append(line)
        else:
            first, *words = line.split(" ")
            parts.append(first)
            parts += [f" {word}" for word in words]
    return parts
