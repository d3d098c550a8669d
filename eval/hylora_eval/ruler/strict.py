# SPDX-License-Identifier: Apache-2.0
"""Samples as the official generator draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hylora_eval.ruler.family import Draft
from hylora_eval.ruler.material import Material
from hylora_eval.ruler.official import OfficialFamily
from hylora_eval.ruler.streams import OfficialStreams
from hylora_eval.ruler.variables import EXAMPLE_TOKENS, ExampleChain

__all__ = ["strict_drafts"]


def strict_drafts(
    material: Material, samples: int, seed: int, progress: Callable[[int], None]
) -> Iterator[tuple[Draft, int]]:
    """Draw samples with the official random numbers and the official search for one size for all of them.

    Args:
        material, samples, seed, progress: as for `exact_drafts`.

    Yields:
        Each draft and the tokens of its prompt, without special tokens.

    Raises:
        ValueError: if the length is too small for the task.
    """
    streams, counter = OfficialStreams(seed), material.counter

    def draw(family: OfficialFamily, length: int, reserve: int, number: int) -> Iterator[Draft]:
        size = family.official_size(length, reserve, counter.plain, streams)
        for index in range(number):
            streams.index = index
            yield family.official_draft(size, length, reserve, counter.plain, streams)

    family = material.family(lambda: next(draw(ExampleChain(), EXAMPLE_TOKENS, 0, 1)))
    for done, draft in enumerate(draw(family, material.length, material.task.tokens_to_generate, samples), 1):
        yield draft, counter.plain(draft.prompt)
        progress(done)
