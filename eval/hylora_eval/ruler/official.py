# SPDX-License-Identifier: Apache-2.0
"""The official ways to choose a size; whatever they draw moves the random numbers on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from hylora_eval.ruler.family import Draft, Family, too_small
from hylora_eval.ruler.streams import Streams

__all__ = ["ATTEMPTS", "OfficialFamily", "SearchedFamily"]

# The official generator draws for ever where nothing fits; a lucky draw comes soon or never.
ATTEMPTS = 100


class OfficialFamily(Family):
    """A family whose samples the official generator draws too."""

    @abstractmethod
    def official_size(self, length: int, reserve: int, count: Callable[[str], int], streams: Streams) -> int:
        """The size for all samples of a file.

        Args:
            length: tokens of a prompt and its answer.
            reserve: of those, tokens of the answer.
            count: tokens of a text.
            streams: the random numbers.
        """

    @abstractmethod
    def official_draft(
        self, size: int, length: int, reserve: int, count: Callable[[str], int], streams: Streams
    ) -> Draft:
        """A sample of that size, or of a smaller one if that is too long.

        Raises:
            ValueError: if none fits.
        """


class SearchedFamily(OfficialFamily):
    """One whose size is sought by halving an interval, and which is drawn anew until a sample fits."""

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
