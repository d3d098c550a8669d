# SPDX-License-Identifier: Apache-2.0
"""Frequent words: coded words whose frequencies fall with the square of their rank; the three after the dots."""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from itertools import count as count_from

from hylora_eval.ruler.family import Draft, too_small
from hylora_eval.ruler.official import ATTEMPTS, OfficialFamily
from hylora_eval.ruler.streams import Streams
from hylora_eval.ruler.tasks import TASKS

__all__ = ["FrequentWords"]

ALPHA = 2.0
ZETA = math.pi**2 / 6
WORD_LETTERS = 6
NOISE_WORD = "..."
ANSWERS = 3


class FrequentWords(OfficialFamily):
    """The task fwe.

    The size is the number of words before frequencies are rounded down to whole numbers.

    Args:
        room: tokens for the prompt; a fiftieth of it is the number of different words.

    Raises:
        ValueError: if that leaves fewer words than are asked for.
    """

    name = "fwe"
    unit = "word"
    # From here on the fourth word comes more often than the fifth: n / zeta * (1/16 - 1/25) >= 1.
    smallest = math.ceil(ZETA / (4**-ALPHA - 5**-ALPHA))

    def __init__(self, room: int) -> None:
        self._room = room
        self._vocabulary_size = room // 50
        needed = ANSWERS + 1
        if self._vocabulary_size < needed:
            raise too_small(self.name, room + TASKS["fwe"].tokens_to_generate, 50 * needed + 50)

    def draw(self, size: int, streams: Streams) -> Draft:
        return self._text(size, self._vocabulary(streams), streams)

    def official_size(self, length: int, reserve: int, count: Callable[[str], int], streams: Streams) -> int:
        vocabulary = self._vocabulary(streams)
        step = self._room // 32
        for size in count_from(self._room // WORD_LETTERS, step):
            if count(self._text(size, vocabulary, streams).prompt) >= self._room:
                return size - step
        raise AssertionError("unreachable")

    def official_draft(
        self, size: int, length: int, reserve: int, count: Callable[[str], int], streams: Streams
    ) -> Draft:
        # The same words in ever smaller numbers, where other tasks draw anew.
        vocabulary = self._vocabulary(streams)
        for smaller in range(size, 0, -(self._room // 32))[:ATTEMPTS]:
            draft = self._text(smaller, vocabulary, streams)
            if count(draft.prompt) <= self._room:
                return draft
        raise too_small(self.name, length)

    def _vocabulary(self, streams: Streams) -> list[str]:
        """Different coded words by rank; the most frequent one is dots."""
        stream = streams.random("vocabulary")

        def word() -> str:
            return "".join(stream.choices(string.ascii_lowercase, k=WORD_LETTERS))

        words = {word() for _ in range(self._vocabulary_size)}
        while len(words) < self._vocabulary_size:
            words.add(word())
        ranked = sorted(words)
        streams.shuffle(ranked)
        return [NOISE_WORD, *ranked[1:]]

    def _text(self, size: int, vocabulary: list[str], streams: Streams) -> Draft:
        listed = []
        for rank, word in enumerate(vocabulary, 1):
            times = int(size * rank**-ALPHA / ZETA)
            if times <= 0:
                break
            listed += [word] * times
        streams.shuffle(listed)
        text, answer_prefix = TASKS["fwe"].prompt.fill(context=" ".join(listed))
        return Draft(text, answer_prefix, outputs=tuple(vocabulary[1 : 1 + ANSWERS]))
