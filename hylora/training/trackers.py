# SPDX-License-Identifier: Apache-2.0
"""Records of a run: `metrics.jsonl` always, experiment trackers where the recipe asks for them."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hylora.training.recipe import RecipeError

__all__ = ["Metrics", "check_trackers", "flatten"]


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are not installed; accelerate would leave them out silently.

    Raises:
        RecipeError: naming the package to install.
    """
    for name in names:
        # The writer that PyTorch brings needs TensorBoard's package as well.
        if importlib.util.find_spec(name) is None:
            raise RecipeError(
                f"tracking.trackers names {name!r}, which is not installed; pip install {name}, or leave it out"
            )


class Metrics:
    """The file `metrics.jsonl`: one JSON object per line, each with its `step`.

    Args:
        path: of the file.
        step: updates that are already made. Later records, of updates that a stopped run made after its last
            checkpoint, are dropped: they will be made again.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        records = [record for record in read_metrics(path) if record["step"] <= step]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        os.replace(partial, path)

    def write(self, record: dict[str, Any]) -> None:
        """Append a record."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All records of a `metrics.jsonl`; a last line that a crash cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def flatten(tree: Any, key: str = "") -> dict[str, Any]:
    """A recipe's tree as `section.key` with values that trackers take."""
    if not isinstance(tree, dict):
        return {key: tree if isinstance(tree, (int, float, str, bool)) else json.dumps(tree)}
    return {
        full: value
        for name, entry in tree.items()
        for full, value in flatten(entry, f"{key}.{name}" if key else name).items()
    }
