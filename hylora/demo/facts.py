# SPDX-License-Identifier: Apache-2.0
"""A sparse recall task: facts `# key value` scattered in library text, some of whose keys come again.

Text is cut into pieces of white space and what follows it up to the next. The tokenizer never joins two such pieces,
and a fact is three of them of one token each, so positions in tokens are known by counting.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import accumulate

from transformers import PreTrainedTokenizerBase

from hylora.demo.corpus import Document
from hylora.demo.recall import HEADING, Query, RecallDocument, RecallTask

# Tokens of a fact: the heading, the key, the value.
FACT = 3
PLACES = ("anywhere", "end")

__all__ = ["FACT", "PLACES", "FactTask"]


class FactTask:
    """Draws documents of text with facts in it.

    Args:
        tokenizer: a byte-level BPE that knows enough words as one token each, such as the demo's.
        documents: text to scatter the facts in.
        words: keys and values together, as in `RecallTask.for_tokenizer`.

    Raises:
        ValueError: if the tokenizer has too few such words, or there is no text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, documents: Iterable[Document], words: int = 256) -> None:
        self.words = RecallTask.for_tokenizer(tokenizer, words)
        self._text = "\n\n".join(document.text for document in documents)
        if not self._text.strip():
            raise ValueError("documents must hold text to scatter facts in")
        self._size = lru_cache(maxsize=None)(lambda piece: len(tokenizer.tokenize(piece)))

    def document(
        self, tokens: int, seed: str, facts: int = 4, asked: int = 4, where: str = "anywhere", distance: int = 0
    ) -> RecallDocument:
        """Draw a document.

        Args:
            tokens: its length.
            seed: names the document; equal seeds and texts give equal documents on every machine.
            facts: how many it states, each at a random place and with a key of its own.
            asked: how many of them come again; the others distract.
            where: the places at which they do: "anywhere" after the fact, or one after another at the "end".
            distance: fewest tokens between a fact's key and its return.

        Returns:
            The document; `tokens - 3 (facts + asked)` tokens of it are text.

        Raises:
            ValueError: if an argument is out of range, or the text too short for it.
        """
        room = tokens - FACT * (facts + asked)
        if not 1 <= asked <= facts <= len(self.words.keys):
            raise ValueError(
                f"asked={asked} must be from 1 to facts={facts}, and those at most {len(self.words.keys)}"
            )
        if where not in PLACES:
            raise ValueError(f"where={where!r} must be one of {', '.join(PLACES)}")
        # At half of the text places are still found by a few draws.
        if room < 1 or distance - FACT > room // 2:
            raise ValueError(
                f"tokens={tokens} must leave room for {facts + asked} facts and questions of {FACT} tokens and for "
                f"text of twice distance={distance}"
            )
        draw = random.Random(seed)
        keys, values = draw.sample(self.words.keys, facts), draw.sample(self.words.values, facts)
        pieces = list(self._pieces(draw.randrange(len(self._text)), room))
        # Place i lies before piece i, after that many tokens of text.
        before = [0, *accumulate(map(self._size, pieces))]

        inserted = []
        for fact in range(facts):
            stated = draw.randrange(len(before))
            if fact < asked:
                stated, again = self._two_places(draw, before, where, distance - FACT)
                inserted.append((again, True, fact))
            inserted.append((stated, False, fact))

        text, done, queries, answers, needles = "", 0, [], [], {}
        # At one place facts come before questions.
        for count, (place, is_question, fact) in enumerate(sorted(inserted)):
            position = before[place] + FACT * count + 1
            text += "".join(pieces[done:place]) + f" {HEADING} {keys[fact]}"
            if is_question:
                queries.append(Query(position=position, needle=needles[fact]))
                answers.append(len(text))
            else:
                needles[fact] = position
            text += f" {values[fact]}"
            done = place
        return RecallDocument(text + "".join(pieces[done:]), tuple(queries), tuple(answers))

    def _pieces(self, start: int, tokens: int) -> Iterator[str]:
        """Pieces of text from a place on, exactly so many tokens: at the end those that do not fit are passed over."""
        pattern = re.compile(r"\s+\S+")
        for first in (start, 0):
            for match in pattern.finditer(self._text, first):
                size = self._size(match.group())
                if size <= tokens:
                    tokens -= size
                    yield match.group()
                if not tokens:
                    return
        raise ValueError(f"the text is too short: {tokens} more tokens are wanted")

    @staticmethod
    def _two_places(draw: random.Random, before: list[int], where: str, apart: int) -> tuple[int, int]:
        """Places of a fact and its question, with so many tokens of text between them at least."""
        last = len(before) - 1
        while True:
            first, second = draw.randrange(len(before)), last if where == "end" else draw.randrange(len(before))
            first, second = min(first, second), max(first, second)
            if before[second] - before[first] >= apart:
                return first, second
