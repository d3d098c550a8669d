# SPDX-License-Identifier: Apache-2.0
"""The table of all recipe keys in the documentation, made from the dataclasses and their docstrings.

`python -m hylora.language.reference docs/reference/recipe.md` brings a page up to date.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

from hylora.language.recipe import LanguageRecipe
from hylora.training.recipe_loading import nested_dataclasses, type_name

__all__ = ["BEGIN", "END", "key_table", "update_page"]

BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"


def key_table(cls: type = LanguageRecipe, key: str = "", told: dict[type, str] | None = None) -> str:
    """Markdown: a table of keys, types, defaults and meanings for every section of a recipe.

    Args:
        cls: the dataclass of the recipe or section.
        key: its full key, empty for a whole recipe.
        told: sections that have a table already, with their keys.

    Raises:
        ValueError: if a key is not described in its dataclass's docstring.
    """
    told = {} if told is None else told
    described = _descriptions(cls)
    hints = get_type_hints(cls)
    rows, sections = [], []
    for item in fields(cls):
        full = f"{key}.{item.name}" if key else item.name
        if item.name not in described:
            raise ValueError(f"{full} must be described in the docstring of {cls.__name__}")
        meaning = described[item.name]
        if nested := nested_dataclasses(hints[item.name]):
            inner, many = nested[0]
            sections.append(f"\n#### `{full}`\n\n{meaning[0].upper()}{meaning[1:]}\n")
            if inner in told:
                sections.append(f"{'A list with the' if many else 'The'} keys of `{told[inner]}`.")
            else:
                told[inner] = f"{full}.N" if many else full
                sections.append(key_table(inner, told[inner], told))
        else:
            cells = (f"`{full}`", type_name(hints[item.name]), _default(item), meaning)
            rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    table = ["| key | type | default | meaning |", "|---|---|---|---|", *rows] if rows else []
    return "\n".join([*table, *sections])


def _descriptions(cls: type) -> dict[str, str]:
    """What the docstrings of a dataclass and its bases say about the fields."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if is_dataclass(base):
            found |= _described_in(inspect.cleandoc(base.__doc__ or ""))
    return found


def _described_in(docstring: str) -> dict[str, str]:
    """The entries of a docstring's Args or Attributes section."""
    section = re.search(r"^(?:Args|Attributes):\n((?:(?: {4}.*)?\n?)*)", docstring, flags=re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(r"^ {4}(\w+): ((?:.*\n?)(?:^ {8}.*\n?)*)", section.group(1), flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _default(item: Field) -> str:
    if item.default_factory is not MISSING:
        return f"`{json.dumps(item.default_factory())}`"
    return "required" if item.default is MISSING else f"`{json.dumps(item.default)}`"


def update_page(text: str, cls: type = LanguageRecipe) -> str:
    """A page with the table between its marks renewed."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{key_table(cls)}\n{END}{after}"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(update_page(page.read_text(encoding="utf-8")), encoding="utf-8")
