# SPDX-License-Identifier: Apache-2.0
"""Numbers of things, in words."""

from __future__ import annotations

__all__ = ["number_of"]


def number_of(count: int, noun: str) -> str:
    """As in "1 sample" and "20 samples"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
