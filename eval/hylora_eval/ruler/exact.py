# SPDX-License-Identifier: Apache-2.0
"""Samples that fill their length: as many units of haystack as fit, for each sample anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hylora_eval.ruler.counting import TokenCounter
from hylora_eval.ruler.family import Draft, Family, too_small
from hylora_eval.ruler.material import Material
from hylora_eval.ruler.streams import SampleStreams
from hylora_eval.ruler.variables import EXAMPLE_TOKENS, ExampleChain

__all__ = ["Filled", "exact_drafts", "fill"]

# Draws of a sample until chance leaves its question one answer.
DRAWS = 20
# Tries by interpolation; after those the interval is halved.
INTERPOLATIONS = 12
# A few units tell little of their mean length, so sizes grow by no more than this factor at once.
GROWTH = 8


def exact_drafts(
    material: Material, samples: int, seed: int, progress: Callable[[int], None]
) -> Iterator[tuple[Draft, int]]:
    """Draw samples that one unit of haystack more would make too long.

    Before the first it is found out whether there is room for all.

    Args:
        material: what they are made from.
        samples: how many.
        seed: of the random numbers.
        progress: called with the number of samples done, after each.

    Yields:
        Each draft and the tokens of its prompt, with the special tokens that come first.

    Raises:
        ValueError: if the length is too small for the task, or too large for the words there are.
    """
    task, length, counter = material.task, material.length, material.counter
    key = f"{seed}/{task.name}/{length}"
    # Where even the shortest example has more tokens than it should, it is that one.
    family = material.family(lambda: _fill(ExampleChain(), f"{key}/example", 0, counter, EXAMPLE_TOKENS).draft)
    room, guess = length - task.tokens_to_generate, None
    _check_room(family, counter, room, length, (SampleStreams(f"{key}/0", index) for index in range(samples)))
    for index in range(samples):
        for attempt in range(DRAWS):
            found = _fill(family, f"{key}/{attempt}", index, counter, room, guess)
            if found.size == family.largest:
                # The next size names what is missing.
                family.draw(found.size + 1, SampleStreams(key, index))
            if found.fits and found.draft.well_posed():
                break
        else:
            raise ValueError(
                f"{task.name}: in {DRAWS} draws of sample {index} the haystack itself held a key or an answer; use "
                "another haystack"
            )
        guess = found.size
        yield found.draft, found.tokens
        progress(index + 1)


def _check_room(
    family: Family, counter: TokenCounter, room: int, length: int, samples: Iterator[SampleStreams]
) -> None:
    """Refuse a length in which the smallest of the samples has no room."""
    longest = 0
    for streams in samples:
        longest = max(longest, counter.whole(family.draw(family.smallest, streams).prompt))
        # Samples of one size are far from twice as long as each other.
        if 2 * longest < room:
            return
    if longest > room:
        raise too_small(family.name, length, length + longest - room)


def _fill(family: Family, key: str, index: int, counter: TokenCounter, room: int, guess: int | None = None) -> Filled:
    """A sample with as much haystack as fits."""

    def filled(count: Callable[[str], int], guess: int | None) -> Filled:
        return fill(
            # Streams start anew for each size that is tried.
            lambda size: family.draw(size, SampleStreams(key, index)),
            lambda draft: count(draft.prompt),
            room,
            family.smallest,
            family.largest,
            guess,
        )

    found = filled(counter.by_parts, guess)
    if counter.whole(found.draft.prompt) == found.tokens:
        return found
    return filled(counter.whole, found.size)


@dataclass(frozen=True)
class Filled:
    """A draft with its size and tokens.

    Attributes:
        draft: what was drawn.
        size: its units of haystack.
        tokens: of its prompt.
        fits: whether there is room for it. If so, there is none for one unit more; if not, it is the smallest.
    """

    draft: Draft
    size: int
    tokens: int
    fits: bool


def fill(
    draw: Callable[[int], Draft],
    count: Callable[[Draft], int],
    room: int,
    smallest: int,
    largest: int | None = None,
    guess: int | None = None,
) -> Filled:
    """Find a size that fits while the next does not.

    Args:
        draw: the draft of a size; larger sizes are, on the whole, longer.
        count: tokens of a draft.
        room: the most tokens that fit.
        smallest: the smallest size.
        largest: the largest that can be drawn, or None.
        guess: a size near the answer.

    Returns:
        What was found: the largest size if all fit, the smallest if none does.
    """

    def attempt(size: int) -> Filled:
        draft = draw(size)
        tokens = count(draft)
        return Filled(draft, size, tokens, tokens <= room)

    low = first = attempt(smallest)
    if not first.fits:
        return first
    high: int | None = None if largest is None else largest + 1
    size = guess if guess is not None else 2 * smallest + 1
    tries = 0
    while high is None or high - low.size > 1:
        size = max(size, low.size + 1)
        if high is not None:
            size = min(size, high - 1)
        tried = attempt(size)
        per_unit = max((tried.tokens - first.tokens) / (size - first.size), 1e-3)
        if tried.fits:
            low = tried
            size = min(size + max(1, math.floor((room - tried.tokens) / per_unit)), GROWTH * size)
        else:
            high = size
            size -= max(1, math.ceil((tried.tokens - room) / per_unit))
        tries += 1
        if tries > INTERPOLATIONS and high is not None:
            size = (low.size + high) // 2
    return low
