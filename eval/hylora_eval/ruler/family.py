# SPDX-License-Identifier: Apache-2.0
"""What all families of tasks share: what they draw, and the interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from hylora_eval.ruler.streams import Streams

__all__ = ["Draft", "Family", "find_all", "too_small"]


@dataclass(frozen=True)
class Draft:
    """A drawn sample.

    Attributes:
        input: the prompt without the answer's prefix.
        answer_prefix: the prefix.
        outputs: the expected answers.
        evidence: where in `input` stands what the answer follows from, as (start, stop) in characters.
        occurrences: texts that the input must hold so many times for the question to have the one answer.
    """

    input: str
    answer_prefix: str
    outputs: tuple[str, ...]
    evidence: tuple[tuple[int, int], ...] = ()
    occurrences: dict[str, int] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """What a model reads."""
        return self.input + self.answer_prefix

    def well_posed(self) -> bool:
        """Whether chance has put no second key, value or name beside the intended ones."""
        return all(self.input.count(text) == times for text, times in self.occurrences.items())


class Family(ABC):
    """Draws samples whose haystack has a given size.

    Attributes:
        name: of the task, for messages.
        unit: what the size counts.
        smallest: the fewest units a sample can have.
        largest: the most, or None.
        useful: the fewest that keep a guess from scoring well, where that is more than the smallest.
    """

    name: str
    unit: str
    smallest: int
    largest: int | None = None
    useful: int | None = None

    @abstractmethod
    def draw(self, size: int, streams: Streams) -> Draft:
        """Draw a sample with a haystack of `size` units."""


def find_all(text: str, parts: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Where each of `parts` stands first, in the order of their places."""
    starts = sorted((text.index(part), len(part)) for part in parts)
    return tuple((start, start + length) for start, length in starts)


def too_small(name: str, length: int, needed: int | None = None) -> ValueError:
    """The error for a length in which a task has no room."""
    advice = f"ask for at least {needed}" if needed is not None else "ask for more, or use mode='exact'"
    return ValueError(f"length={length} is too small for {name}: {advice}")
