# SPDX-License-Identifier: Apache-2.0
"""Needles in a haystack: values to be found by their keys, in repeated lines, in prose or among other needles."""

from __future__ import annotations

import random
import uuid
from itertools import pairwise

from hylora_eval.ruler.family import Draft, find_all
from hylora_eval.ruler.haystack import Essay
from hylora_eval.ruler.official import SearchedFamily
from hylora_eval.ruler.streams import Streams
from hylora_eval.ruler.tasks import Task
from hylora_eval.ruler.words import key_words

__all__ = ["DEPTHS", "NOISE", "Needles", "hide"]

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "One of the special magic {kind} for {key} is: {value}."
# Per cent of the sentences before a needle: 40 depths, evenly spaced and rounded to the nearest (even) integer.
DEPTHS = tuple(round(100 * step / 39) for step in range(40))


class Needles(SearchedFamily):
    """The eight tasks niah_*.

    Args:
        task: its settings say what keys, values and the haystack are, and how many keys and values there are.
        essay: the prose, where the haystack is an essay.
    """

    def __init__(self, task: Task, essay: Essay | None) -> None:
        settings = task.settings
        self.name = task.name
        self._haystack = settings["haystack"]
        self._keys, self._values = settings["keys"], settings["values"]
        self._num_keys, self._num_values = settings["num_keys"], settings["num_values"]
        self._num_queries = settings["num_queries"]
        self._essay = essay
        self._single = self._num_queries * self._num_values == 1
        self._prompt = task.prompt.singular() if self._single else task.prompt
        self.unit = "word" if self._haystack == "essay" else "line"
        self.smallest = 1 if self._haystack == "essay" else self._num_keys * self._num_values

    def draw(self, size: int, streams: Streams) -> Draft:
        stream = streams.random("needles")
        keys, values, needles = [], [], []
        for _ in range(self._num_keys):
            key = _random_text(self._keys, stream)
            of_key = [_random_text(self._values, stream) for _ in range(self._num_values)]
            keys.append(key)
            values.append(of_key)
            needles += [self._needle(key, value) for value in of_key]
        shuffled = list(needles)
        streams.shuffle(shuffled)
        if self._haystack == "essay":
            context = hide(shuffled, self._essay, size, streams)
        else:
            context = self._among_lines(size, shuffled, streams)
        asked = streams.random("query").sample(range(self._num_keys), self._num_queries)
        queries = [keys[index] for index in asked]
        query = queries[0] if len(queries) == 1 else ", ".join(queries[:-1]) + ", and " + queries[-1]

        kind = self._values[:-1] if self._single else self._values
        text, answer_prefix = self._prompt.fill(type_needle_v=kind, query=query, context=context)
        answers = [value for index in asked for value in values[index]]
        told = [self._needle(keys[index], value) for index in asked for value in values[index]]
        return Draft(
            input=text,
            answer_prefix=answer_prefix,
            outputs=tuple(answers),
            evidence=find_all(text, told),
            occurrences={
                **{f" for {key} is: ": self._num_values for key in queries},
                **dict.fromkeys(answers, 1),
            },
        )

    def official_step(self, length: int) -> int:
        if self._haystack == "essay":
            return 500
        return 25 if length >= 4096 else 5

    def _needle(self, key: str, value: str) -> str:
        return NEEDLE.format(kind=self._values, key=key, value=value)

    def _among_lines(self, size: int, needles: list[str], streams: Streams) -> str:
        if self._haystack == "noise":
            lines = [NOISE] * size
        else:
            stream = streams.random("lines")
            lines = [
                self._needle(_random_text(self._keys, stream), _random_text(self._values, stream)) for _ in range(size)
            ]
        places = sorted(streams.random("places").sample(range(size), len(needles)), reverse=True)
        for place, needle in zip(places, needles, strict=True):
            lines.insert(place, needle)
        return "\n".join(lines)


def hide(needles: list[str], essay: Essay, size: int, streams: Streams) -> str:
    """The first `size` words of an essay, with needles between its sentences at random depths."""
    sentences = essay.sentences(size)
    depths = streams.random("places").sample(DEPTHS, len(needles))
    cuts = [0, *sorted(int(len(sentences) * (depth / 100)) for depth in depths), len(sentences)]
    pieces = []
    for (start, stop), needle in zip(pairwise(cuts), [*needles, None], strict=True):
        pieces += [" ".join(sentences[start:stop]), *([] if needle is None else [needle])]
    return " ".join(pieces)


def _random_text(kind: str, stream: random.Random) -> str:
    if kind == "words":
        return stream.choice(key_words())
    if kind == "numbers":
        return str(stream.randint(10**6, 10**7 - 1))
    return str(uuid.UUID(int=stream.getrandbits(128), version=4))
