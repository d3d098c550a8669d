# SPDX-License-Identifier: Apache-2.0
"""The pages of the documentation as tests read them: text, code blocks and commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

__all__ = ["ROOT", "blocks", "commands", "page"]

ROOT = Path(__file__).parents[1]


def page(name: str) -> str:
    """The text of a page, named from the repository's root."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The words of every command in the shell blocks, without comments; the first word is the program."""
    lines = "".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]
