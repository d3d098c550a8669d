# SPDX-License-Identifier: Apache-2.0
"""What the sections of a recipe check about their fields, also where they are made in Python."""

from __future__ import annotations

import math
import os
from dataclasses import fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hylora.words import nearest

__all__ = ["check_choice", "check_range", "expand_home", "refuse_unread"]


def check_range(
    section: Any,
    *names: str,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> None:
    """Refuse numbers out of their range, and those that are not finite; null passes.

    Args:
        section: a dataclass.
        names: of its fields, each a number, a tuple of them, or None.
        least: the smallest value.
        above: what values must be above.
        below: what values must be below.
        most: the largest value.

    Raises:
        ValueError: naming the field, its value and the range.
    """
    words = {"at least": least, "above": above, "below": below, "at most": most}
    bounds = " and ".join(f"{word} {bound}" for word, bound in words.items() if math.isfinite(bound))
    for name in names:
        value = getattr(section, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not -math.inf < number < math.inf:
                raise ValueError(f"{name}={value!r} must be finite")
            if number is not None and not (least <= number <= most and above < number < below):
                raise ValueError(f"{name}={value!r} must be {bounds}")


def check_choice(section: Any, *names: str) -> None:
    """Refuse what is none of a field's literals; null is none of them.

    Raises:
        ValueError: naming the field, its value, the literals and the nearest of them.
    """
    for name in names:
        value, choices = getattr(section, name), _literals(_hints(type(section))[name])
        if value not in choices:
            raise ValueError(
                f"{name}={value!r} must be {' | '.join(choices)}; the nearest is {nearest(value, choices)}"
            )


def _literals(hint: Any) -> tuple[Any, ...]:
    """The values of a literal, which may be one of several kinds of values."""
    parts = get_args(hint)
    return parts if get_origin(hint) is Literal else sum(map(_literals, parts), ())


# Plans make thousands of sections.
_hints = cache(get_type_hints)


def refuse_unread(section: Any, *names: str, choice: str = "name") -> None:
    """Refuse fields that are set, though what another field chooses does not read them.

    Args:
        section: a dataclass.
        names: of its fields.
        choice: the field that chooses.

    Raises:
        ValueError: naming the field, its value and the choice.
    """
    for item in fields(section):
        value = getattr(section, item.name)
        if item.name in names and value != item.default:
            raise ValueError(
                f"{item.name}={value!r} must be left out; {choice}={getattr(section, choice)!r} does not read it"
            )


def expand_home(section: Any, *names: str) -> None:
    """Make a leading `~` of paths the home folder, as a shell would have done outside a recipe."""
    for name in names:
        value = getattr(section, name)
        if isinstance(value, (str, os.PathLike)):
            object.__setattr__(section, name, os.path.expanduser(value))
