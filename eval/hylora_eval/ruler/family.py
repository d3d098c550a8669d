# SPDX-License-Identifier: Apache-2.0
"""What all families of tasks share: what they draw, the interface, and the official way to choose a size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hylora_eval.ruler.streams import Streams

__all__ = ["ATTEMPTS", "Draft", "Family", "find_all", "too_small"]

# The official generator draws for ever where nothing fits; a lucky draw comes soon or never.
ATTEMPTS = 100


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

    # What follows reproduces the official search, whose draws move the random numbers on.

    def official_step(self, length: int) -> int:
        """Units by which the official generator shrinks a sample that is too long."""
        return 10

    def official_first(self, length: int) -> int:
        """Size of the draw that tells how long a unit is."""
        return self.official_step(length)

    def official_bound(self, length: int, tokens_per_unit: float) -> int:
        """Where the official search ends."""
        return int(length / tokens_per_unit * 3)

    def official_text(self, size: int, streams: Streams) -> str:
        """The text whose tokens the official search counts."""
        return self.draw(size, streams).prompt

    def official_overhead(self, count: Callable[[str], int]) -> int:
        """Tokens that the official search adds to those of the text."""
        return 0

    def official_size(self, length: int, reserve: int, count: Callable[[str], int], streams: Streams) -> int:
        """The largest size found to fit, by a binary search with a new sample at each step."""
        step, first = self.official_step(length), self.official_first(length)
        tokens_per_unit = count(self.official_text(first, streams)) / first
        low, high = step, max(self.official_bound(length, tokens_per_unit), 2 * step)
        reserve += self.official_overhead(count)
        best = step
        while low <= high:
            middle = (low + high) // 2
            if count(self.official_text(middle, streams)) + reserve <= length:
                best, low = middle, middle + 1
            else:
                high = middle - 1
        return best

    def official_draft(
        self, size: int, length: int, reserve: int, count: Callable[[str], int], streams: Streams
    ) -> Draft:
        """A sample of that size, or smaller by steps until one fits."""
        step, attempts = self.official_step(length), 0
        # Shrinking by steps can leave fewer lines than there are places to draw.
        while size >= self.smallest and attempts < ATTEMPTS:
            draft = self.draw(size, streams)
            if count(draft.prompt) + reserve <= length:
                return draft
            if size > step:
                size -= step
            else:
                attempts += 1
        raise too_small(self.name, length)


def find_all(text: str, parts: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Where each of `parts` stands first, in the order of their places."""
    starts = sorted((text.index(part), len(part)) for part in parts)
    return tuple((start, start + length) for start, length in starts)


def too_small(name: str, length: int, needed: int | None = None) -> ValueError:
    """The error for a length in which a task has no room."""
    advice = f"ask for at least {needed}" if needed is not None else "ask for more, or use mode='exact'"
    return ValueError(f"length={length} is too small for {name}: {advice}")
