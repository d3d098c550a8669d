# SPDX-License-Identifier: Apache-2.0
"""Tables and numbers of Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table of Markdown, numbers to the right."""
    header = list(header)
    lines = ["| " + " | ".join(map(str, line)) + " |" for line in (header, *rows)]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(header) - 1), *lines[1:]])


def lines_of(data: dict[str, Any], section: str, key: str) -> list[dict[str, Any]]:
    """One list of a section of the results; empty where there is none."""
    return data.get(section, {}).get(key, [])


def heads_of(item: dict[str, Any]) -> str:
    """Query heads and KV heads."""
    return "/".join(map(str, item["heads"]))


def number(value: float | None, form: str = ".1e") -> str:
    """Nothing where there is none."""
    return "" if value is None else format(value, form)
