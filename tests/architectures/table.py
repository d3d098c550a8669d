# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/reference/architectures.md, made from the matrix and from the models themselves.

`python -m tests.architectures.table docs/reference/architectures.md` brings the page up to date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from hylora.adapters.structure import GROUPS, find_groups
from tests.architectures.matrix import CAPABILITIES, MATRIX
from tests.architectures.zoo import ZOO, Architecture


def support_table() -> str:
    """Markdown: a row per architecture, a column per capability, and a numbered note for all but a plain yes."""
    notes: list[str] = []

    def entry(architecture: str, capability: str) -> str:
        cell = MATRIX[architecture, capability]
        if not cell.why:
            return cell.state
        if cell.why not in notes:
            notes.append(cell.why)
        return f"{cell.state} ({notes.index(cell.why) + 1})"

    rows = [[f"`{name}`", *(entry(name, capability) for capability in CAPABILITIES)] for name in ZOO]
    meanings = [f"- **{_title(capability)}**: {meaning}." for capability, meaning in CAPABILITIES.items()]
    numbered = [f"{number}. {note[0].upper()}{note[1:]}." for number, note in enumerate(notes, start=1)]
    header = ["", *map(_title, CAPABILITIES)]
    table = markdown_table(header, rows)
    return "\n".join([*table, "", "What a yes asserts:", "", *meanings, "", "Notes:", "", *numbered])


def modules_table() -> str:
    """Markdown: the modules that are found in each architecture, by group."""
    rows = [[f"`{name}`", *_modules(architecture)] for name, architecture in ZOO.items()]
    return "\n".join(markdown_table(["", *GROUPS], rows))


TABLES = {"support": support_table, "modules": modules_table}


def update_page(text: str) -> str:
    """The page with its tables renewed."""
    return replace_between(text, TABLES)


def replace_between(text: str, tables: dict[str, Callable[[], str]]) -> str:
    """A page with each table between its marks renewed."""
    for name, table in tables.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{table()}\n{end}{after}"
    return text


def _modules(architecture: Architecture) -> list[str]:
    """For each group, the names that occur, without the layers' numbers."""
    groups = find_groups(architecture.build()).values()
    names = [{re.sub(r"^model\.(layers\.\d+\.)?", "", name): None for name in modules} for modules in groups]
    return [", ".join(f"`{name}`" for name in group) or "none" for group in names]


def _title(capability: str) -> str:
    return capability if "attn" in capability else capability.replace("_", " ")


def markdown_table(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    """The lines of a table."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(update_page(page.read_text(encoding="utf-8")), encoding="utf-8")
