# SPDX-License-Identifier: Apache-2.0
"""A synthetic recall task: facts "key value" in a row, keys that come again, and the distance each is recalled over.

A document reads `# key value key value ...`. Keys and values are words that the tokenizer knows as one token each, so
positions in tokens are known without counting: pair i occupies tokens 2 i + 1 (the key) and 2 i + 2 (its value). Keys
are bound to values afresh in every document, so a value can only be predicted by finding the key's last occurrence.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

HEADING = "#"

__all__ = ["Query", "RecallDocument", "RecallTask"]


@dataclass(frozen=True)
class Query:
    """A key that has come before.

    Attributes:
        position: the key's token index in the document; the answer is the token after it.
        needle: token index of the key's last occurrence; the value to recall is the token after it.
    """

    position: int
    needle: int

    @property
    def distance(self) -> int:
        """Tokens between the key and its last occurrence."""
        return self.position - self.needle


@dataclass(frozen=True)
class RecallDocument:
    """A document with facts in it.

    Attributes:
        text: of the document.
        queries: every key that comes again, in order of position.
        answers: for each of them, the character at which its answer begins, the space before it included.
    """

    text: str
    queries: tuple[Query, ...]
    answers: tuple[int, ...]

    def messages(self) -> list[dict[str, str]]:
        """The document as a conversation whose concatenated turns are `text`: the assistant's are the answers.

        What nothing in the document foretells (new facts, and which key comes next) is the user's, so that chat data
        teaches the answers alone.
        """
        turns, start = [], 0
        for answer in self.answers:
            stop = re.compile(r"\s|$").search(self.text, answer + 1).start()
            turns.append({"role": "user", "content": self.text[start:answer]})
            turns.append({"role": "assistant", "content": self.text[answer:stop]})
            start = stop
        if start < len(self.text):
            turns.append({"role": "user", "content": self.text[start:]})
        return turns


@dataclass(frozen=True)
class RecallTask:
    """The words that serve as keys and as values; the two sets are disjoint.

    Attributes:
        keys: words that name facts.
        values: words that facts are bound to.
    """

    keys: tuple[str, ...]
    values: tuple[str, ...]

    @classmethod
    def for_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, words: int = 256) -> RecallTask:
        """Take the most frequent words that are one token each.

        Args:
            tokenizer: a byte-level BPE whose ids follow the order of the merges (frequent words first).
            words: keys and values together.

        Returns:
            The task; words go to the two sets by turns, so that both are equally frequent in text.

        Raises:
            ValueError: if the tokenizer has too few such words.
        """
        ids = tokenizer.get_vocab()
        single = [token[1:] for token in sorted(ids, key=ids.get) if re.fullmatch("Ġ[a-z]{3,}", token)]
        if len(single) < words:
            raise ValueError(f"words={words} must be at most {len(single)}, the one-token words of the tokenizer")
        return cls(keys=tuple(single[0:words:2]), values=tuple(single[1:words:2]))

    def document(self, tokens: int, seed: str, repeats: int = 4) -> RecallDocument:
        """Draw a document.

        Args:
            tokens: its length; odd, for the heading and whole pairs.
            seed: names the document; equal seeds give equal documents on every machine.
            repeats: times each fact comes. Two gives the widest spread of distances.

        Returns:
            The document, with `(tokens - 1) // 2` pairs.

        Raises:
            ValueError: if `tokens` is even or below 5, `repeats` below 2, or there are fewer keys than facts.
        """
        if tokens < 5 or tokens % 2 == 0:
            raise ValueError(f"tokens={tokens} must be odd and at least 5")
        if repeats < 2:
            raise ValueError(f"repeats={repeats} must be at least 2: a fact that comes once asks nothing")
        pairs = (tokens - 1) // 2
        facts = max(1, pairs // repeats)
        if facts > min(len(self.keys), len(self.values)):
            raise ValueError(f"tokens={tokens} must need at most {len(self.keys)} keys, not {facts}; raise repeats")
        draw = random.Random(seed)
        keys, values = draw.sample(self.keys, facts), draw.sample(self.values, facts)
        order = [pair % facts for pair in range(pairs)]
        draw.shuffle(order)

        text, queries, answers, last = HEADING, [], [], {}
        for pair, fact in enumerate(order):
            position = 2 * pair + 1
            text += f" {keys[fact]}"
            if fact in last:
                queries.append(Query(position=position, needle=last[fact]))
                answers.append(len(text))
            last[fact] = position
            text += f" {values[fact]}"
        return RecallDocument(text, tuple(queries), tuple(answers))
