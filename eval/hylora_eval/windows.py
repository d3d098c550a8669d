# SPDX-License-Identifier: Apache-2.0
"""How documents are cut into the windows that a model reads, and which of their tokens are scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MODES", "Window", "check_windows", "lay_windows"]

MODES = ("chunks", "sliding", "longlora")

# Tokens between two windows in LongLoRA's evaluation.
_LONGLORA_STRIDE = 256


class Window(NamedTuple):
    """Tokens `start` to `stop` of a document, of which those from `score_from` on are scored."""

    document: int
    start: int
    stop: int
    score_from: int


def check_windows(length: int, mode: str, stride: int | None) -> int:
    """Check how windows are laid, before any document is read.

    Args:
        length: tokens in a window.
        mode: one of `MODES`.
        stride: tokens between the starts of two windows, or None for the mode's default.

    Returns:
        The stride: `length` for "chunks", half of it for "sliding" and 256 for "longlora" where none is given.

    Raises:
        ValueError: if an argument is out of its range.
    """
    if length < 2:
        raise ValueError(f"length={length} must be at least 2: the first token of a window is not predicted")
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} must be one of {', '.join(map(repr, MODES))}")
    if mode == "chunks":
        if stride is not None:
            raise ValueError(f"stride={stride} belongs to mode='sliding' or 'longlora'; chunks are disjoint")
        return length
    if stride is None:
        return length // 2 if mode == "sliding" else _LONGLORA_STRIDE
    if mode == "sliding" and not 1 <= stride < length:
        raise ValueError(f"stride={stride} must be between 1 and length - 1 = {length - 1}")
    if stride < 1:
        raise ValueError(f"stride={stride} must be at least 1")
    return stride


def lay_windows(documents: Sequence[Tensor], length: int, mode: str, stride: int) -> list[Window]:
    """All windows of all documents.

    Args:
        documents: token ids, each at least `length` long.
        length: tokens in a window.
        mode: one of `MODES`.
        stride: as `check_windows` returns it.

    Returns:
        The windows, in the order of the documents.
    """
    lay = {"chunks": _chunks, "sliding": _sliding, "longlora": _longlora}[mode]
    return [window for index, tokens in enumerate(documents) for window in lay(index, len(tokens), length, stride)]


def _chunks(document: int, tokens: int, length: int, stride: int) -> Iterator[Window]:
    """Disjoint windows; what remains at the end is left out."""
    for start in range(0, tokens - length + 1, stride):
        yield Window(document, start, start + length, score_from=start + 1)


def _sliding(document: int, tokens: int, length: int, stride: int) -> Iterator[Window]:
    """Overlapping windows up to the end, each scoring what none before it has scored."""
    yield Window(document, 0, length, score_from=1)
    for scored in range(length, tokens, stride):
        stop = min(scored + stride, tokens)
        yield Window(document, stop - length, stop, score_from=scored)


def _longlora(document: int, tokens: int, length: int, stride: int) -> Iterator[Window]:
    """Overlapping windows, each scored as a whole; the last start is left out, as in LongLoRA's evaluation."""
    for start in range(0, tokens - length, stride)[:-1]:
        yield Window(document, start, start + length, score_from=start + 1)
