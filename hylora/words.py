# SPDX-License-Identifier: Apache-2.0
"""What someone may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(word: object, known: Iterable[object]) -> str:
    """The known word that is most like another, for the message that refuses that one.

    Args:
        word: what was written; anything but text counts by its string.
        known: at least one; likewise.
    """
    return difflib.get_close_matches(str(word), map(str, known), n=1, cutoff=0.0)[0]
