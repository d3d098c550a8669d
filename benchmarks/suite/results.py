# SPDX-License-Identifier: Apache-2.0
"""The file of results, written after every line, so that a run that is cut short leaves what it has."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from environment import describe

from .timing import Budget


class Results:
    """A JSON object in a folder, a section for each part of the benchmarks.

    Args:
        folder: made if it is not there; parts that ran before stay in its file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "gpu.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.data: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def start(self, name: str, **content: Any) -> Section:
        """A new section in place of an older one."""
        self.data["environment"] = describe()
        self.data[name] = section = Section(content, self.save)
        self.save()
        return section

    def save(self) -> None:
        """Write everything, whole or not at all."""
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps(self.data, indent=1) + "\n")
        os.replace(draft, self._path)


class Section(dict):
    """What one part found, and under "left_out" what it did not measure, and why.

    Args:
        content: to begin with.
        save: writes all sections.
    """

    def __init__(self, content: dict[str, Any], save: Callable[[], None]) -> None:
        super().__init__(content, left_out=[])
        self._save = save

    def add(self, key: str, *items: dict[str, Any]) -> None:
        """Append to one of the lists."""
        self[key] += items
        self._save()

    def leave_out(self, reason: str, **what: Any) -> None:
        """Note what is not measured."""
        self.add("left_out", {**what, "reason": reason})

    @contextmanager
    def attempt(self, **what: Any) -> Iterator[None]:
        """Go on after a failure, which is noted with its traceback."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.leave_out(describe_error(error), **what, traceback=traceback.format_exc())

    def in_time(self, places: Iterable[dict[str, Any]], budget: Budget) -> Iterator[dict[str, Any]]:
        """The places that there is time for; what is not measured at the others is noted."""
        for place in places:
            if budget.spent:
                self.leave_out("no time left", **place)
            else:
                yield place

    @property
    def failed(self) -> bool:
        """Whether anything ended in an exception."""
        return any("traceback" in item for item in self["left_out"])


def describe_error(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
