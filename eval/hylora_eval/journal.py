# SPDX-License-Identifier: Apache-2.0
"""Journals: what an evaluation has found so far, kept line by line, so that it goes on where it was interrupted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hylora_eval.results import check_same

__all__ = ["Journal"]

_HEAD = "settings"


class Journal:
    """A file of JSON lines. The first says under which settings the others were made.

    A line that an interruption cut short is dropped.

    Args:
        path: of the file, which is made where there is none.
        settings: all that the lines depend on; plain JSON types.

    Attributes:
        lines: what was kept, without the first line.

    Raises:
        ValueError: if the file was made under other settings, naming the first that differs, or is no journal.
        OSError: if it cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike, settings: dict[str, Any]) -> None:
        self._path = Path(path)
        self.lines: list[dict[str, Any]] = []
        content = self._path.read_bytes() if self._path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        try:
            made = [json.loads(line) for line in whole.splitlines()]
            kept = made.pop(0)[_HEAD] if made else None
        except (ValueError, KeyError, TypeError) as error:
            raise self._no_journal(f"{type(error).__name__}: {error}") from error
        if kept is None:
            # Nothing, or a first line that was cut short; any other file is someone's.
            if not json.dumps({_HEAD: settings}).encode().startswith(content):
                raise self._no_journal("it does not begin with settings")
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_bytes(b"")
            self._write({_HEAD: settings})
            return
        check_same(self._path, kept, settings)
        self.lines = made
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))

    def add(self, line: dict[str, Any]) -> None:
        """Keep a line; it is on disk when this returns."""
        self.lines.append(line)
        self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _no_journal(self, why: str) -> ValueError:
        return ValueError(
            f"{str(self._path)!r} holds no interrupted evaluation ({why}); choose another output or remove it"
        )
