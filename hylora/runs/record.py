# SPDX-License-Identifier: Apache-2.0
"""What a run's folder tells of its training: the recipe, what the data came to, the evaluations of both ends."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hylora.runs.whereabouts import RECORDS
from hylora.training.recipe import RecipeError
from hylora.training.recipe_loading import read_yaml
from hylora.training.reporting import EVALUATED, read_metrics

__all__ = ["RunRecord"]


@dataclass(frozen=True)
class RunRecord:
    """How a run went; whatever a folder does not hold, or holds damaged, is empty.

    Args:
        recipe: its tree of plain values.
        data: documents, tokens and rows of each source, under "train" and "validation".
        steps: updates made.
        base: held-out metrics before the first update, by name.
        tuned: the same after the last.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    data: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    steps: int = 0
    base: dict[str, float] = field(default_factory=dict)
    tuned: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """The record in the folder of a run."""
        recipe, data, metrics = (folder / name for name in RECORDS)
        records = read_metrics(metrics)
        steps = max((record["step"] for record in records), default=0)
        base, tuned = (
            {
                name.removeprefix(EVALUATED): value
                for record in records
                if record["step"] == step
                for name, value in record.items()
                if name.startswith(EVALUATED) and isinstance(value, float)
            }
            for step in (0, steps)
        )
        return cls(_yaml(recipe), _json(data), steps, base, tuned if steps else {})


def _yaml(path: Path) -> dict[str, Any]:
    try:
        return read_yaml(path)
    except RecipeError:
        return {}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
