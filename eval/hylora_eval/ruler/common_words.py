# SPDX-License-Identifier: Apache-2.0
"""Common words: a numbered list in which ten words come more often than the others, after a worked example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hylora_eval.ruler.family import Draft
from hylora_eval.ruler.official import SearchedFamily
from hylora_eval.ruler.streams import Streams
from hylora_eval.ruler.tasks import TASKS
from hylora_eval.ruler.words import common_words

__all__ = ["CommonWords"]

COMMON = 10


class ListShape(NamedTuple):
    """How often the words of a list come: the ten common ones, and the others."""

    common: int
    uncommon: int


class CommonWords(SearchedFamily):
    """The task cwe.

    Args:
        length: tokens asked for; below 4096 words come less often.
        more_words: a longer list, for lists that need more different words than wonderwords has.
    """

    name = "cwe"
    unit = "word"
    smallest = COMMON
    # As many other words: a guess is right half the time.
    useful = 2 * COMMON

    def __init__(self, length: int, more_words: Sequence[str] = ()) -> None:
        self._shape = ListShape(30, 3) if length >= 4096 else ListShape(6, 1)
        self._example = (40, ListShape(10, 3)) if length >= 4096 else (20, ListShape(3, 1))
        self._more = more_words
        self.largest = max(len(common_words()), len(more_words))

    def draw(self, size: int, streams: Streams) -> Draft:
        prompt = TASKS["cwe"].prompt
        listed, answer = self._list(*self._example, "example", streams)
        example, prefix = prompt.fill(context=_numbered(listed))
        example = f"{example}{prefix} {_numbered(answer)}\n"
        listed, answer = self._list(size, self._shape, "words", streams)
        text, prefix = prompt.fill(context=_numbered(listed))
        return Draft(example + text, prefix, outputs=tuple(answer))

    def official_first(self, length: int) -> int:
        return 4096

    def official_bound(self, length: int, tokens_per_unit: float) -> int:
        return int(length // tokens_per_unit) * 2

    def _list(self, size: int, shape: ListShape, purpose: str, streams: Streams) -> tuple[list[str], list[str]]:
        """A shuffled list with `size` different words, and those that come most often."""
        if size <= len(common_words()):
            words = list(common_words())
            streams.shuffle(words)
        else:
            words = self._more
        if size > len(words):
            raise ValueError(
                f"cwe needs {size} different words at this length and there are {self.largest}: give a longer list, "
                "such as RULER's english_words.json, as --more-words (in Python more_words)"
            )
        picked = streams.pick(purpose, words, size)
        common, others = picked[:COMMON], picked[COMMON:]
        listed = common * shape.common + others * shape.uncommon
        streams.shuffle(listed)
        return listed, common


def _numbered(words: Sequence[str]) -> str:
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, 1))
