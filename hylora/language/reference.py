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
from typing import Any, get_type_hints

from hylora.language.recipe import LanguageRecipe
from hylora.training.recipe_loading import nested_dataclasses, to_tree, type_name

__all__ = ["BEGIN", "END", "key_table", "update_page"]

BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"


def key_table(cls: type = LanguageRecipe, key: str = "") -> str:
    """Markdown: a table of keys, types, defaults and meanings for every section of a recipe.

    Raises:
        ValueError: if a key is not described in its dataclass's docstring.
    """
    described = _descriptions(cls)
    hints = get_type_hints(cls)
    rows, sections = [], []
    for item in fields(cls):
        full = f"{key}.{item.name}" if key else item.name
        if item.name not in described:
            raise ValueError(f"{full} is not described in the docstring of {cls.__name__}")
        nested = nested_dataclasses(hints[item.name])
        if nested:
            inner, many = nested[0]
            meaning = described[item.name]
            sections.append(f"\n#### `{full}`\n\n{meaning[0].upper()}{meaning[1:]}")
            # Validation sources have the keys of training sources.
            if full == "data.validation":
                sections.append("\nA list with the keys of `data.sources.N`.")
            else:
                sections.append("\n" + key_table(inner, f"{full}.N" if many else full))
        else:
            cells = (f"`{full}`", type_name(hints[item.name]), _default(item), described[item.name])
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
    if item.default is not MISSING:
        value: Any = item.default
    elif item.default_factory is not MISSING:
        value = item.default_factory()
    else:
        return "required"
    return f"`{json.dumps(to_tree(value))}`"


def update_page(text: str) -> str:
    """A page with the table between its marks renewed."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{key_table()}\n{END}{after}"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(update_page(page.read_text(encoding="utf-8")), encoding="utf-8")
