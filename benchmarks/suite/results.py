# SPDX-License-Identifier: Apache-2.0
"""The file of results, written after every line, so that a run that is cut short leaves what it has."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from environment import describe


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

    def start(self, section: str, content: dict[str, Any]) -> dict[str, Any]:
        """A new section in place of an older one."""
        self.data["environment"] = describe()
        self.data[section] = content
        self.save()
        return content

    def save(self) -> None:
        """Write everything, whole or not at all."""
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps(self.data, indent=1) + "\n")
        os.replace(draft, self._path)
