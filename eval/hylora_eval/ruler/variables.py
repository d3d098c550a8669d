# SPDX-License-Identifier: Apache-2.0
"""Variable tracking: a chain of assignments in noise; all variables with the first one's value are asked for."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import replace

from hylora_eval.ruler.family import Draft, find_all
from hylora_eval.ruler.needles import NOISE
from hylora_eval.ruler.official import SearchedFamily
from hylora_eval.ruler.streams import Streams
from hylora_eval.ruler.tasks import TASKS

__all__ = ["EXAMPLE_TOKENS", "ExampleChain", "Variables"]

HOPS = 4
# Room for the worked example that precedes each question.
EXAMPLE_TOKENS = 500
EXAMPLE_VALUE = "12345"


class _Chains(SearchedFamily):
    """Chains of assignments between lines of noise."""

    name = "vt"
    unit = "line"
    smallest = HOPS + 1
    letters: int

    def value(self, streams: Streams) -> str:
        """The value that is passed on."""
        raise NotImplementedError

    def question(self, size: int, streams: Streams) -> Draft:
        """A question without a worked example."""
        names = self._names(streams)
        value = self.value(streams)
        chain = [f"VAR {names[0]} = {value}"]
        chain += [f"VAR {after} = VAR {before} " for before, after in zip(names, names[1:], strict=False)]
        lines = [NOISE] * size
        for done, place in enumerate(sorted(streams.random("places").sample(range(size), len(chain)))):
            lines.insert(place + done, chain[done])
        text, answer_prefix = TASKS["vt"].prompt.fill(context="\n".join(lines), query=value, num_v=len(names))
        return Draft(
            input=text,
            answer_prefix=answer_prefix,
            outputs=tuple(names),
            evidence=find_all(text, chain),
            occurrences={f" {name} ": 2 for name in names[:-1]} | {f" {names[-1]} ": 1, f" = {value}\n": 1},
        )

    def _names(self, streams: Streams) -> list[str]:
        stream = streams.random("names")
        while True:
            names = ["".join(stream.choices(string.ascii_uppercase, k=self.letters)) for _ in range(HOPS + 1)]
            if len(set(names)) == len(names):
                return names


class ExampleChain(_Chains):
    """The worked example, with short names and a value to be replaced."""

    letters = 3

    def value(self, streams: Streams) -> str:
        return EXAMPLE_VALUE

    def draw(self, size: int, streams: Streams) -> Draft:
        return self.question(size, streams)

    def official_step(self, length: int) -> int:
        return 5


class Variables(_Chains):
    """The task vt.

    Args:
        example: a draft of `ExampleChain`; each sample gives it other names and another value.
    """

    letters = 5

    def __init__(self, example: Draft) -> None:
        self._example = f"{example.prompt} {' '.join(example.outputs)}\n"

    def value(self, streams: Streams) -> str:
        return str(streams.number("value", 10000, 99999))

    def draw(self, size: int, streams: Streams) -> Draft:
        question = self.question(size, streams)
        before = self._example_for(streams) + "\n"
        evidence = tuple((start + len(before), stop + len(before)) for start, stop in question.evidence)
        return replace(question, input=before + question.input, evidence=evidence)

    def official_step(self, length: int) -> int:
        return 10 if length >= 4096 else 5

    def official_text(self, size: int, streams: Streams) -> str:
        return self.question(size, streams).prompt

    def official_overhead(self, count: Callable[[str], int]) -> int:
        return count(self._example)

    def _example_for(self, streams: Streams) -> str:
        text = self._example
        stream = streams.random("example")
        for name in text.strip().split()[-HOPS - 1 :]:
            text = text.replace(name, "".join(stream.choices(string.ascii_uppercase, k=len(name))))
        return text.replace(EXAMPLE_VALUE, str(streams.number("example value", 10000, 99999)))
