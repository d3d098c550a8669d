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
        return cls(_yaml(recipe), _lists(data), steps, base, tuned if steps else {})

    @property
    def evaluated_sequences(self) -> int | None:
        """How many sequences the evaluations stopped at; None where they read all that is held out."""
        section = self.recipe.get("evaluation")
        limit = section.get("max_sequences") if isinstance(section, dict) else None
        if not isinstance(limit, int):
            return None
        counts = [source.get("rows") for source in self.data.get("validation", ())]
        known = bool(counts) and all(isinstance(count, int) for count in counts)
        return None if known and sum(counts) <= limit else limit


def _yaml(path: Path) -> dict[str, Any]:
    try:
        return read_yaml(path)
    except RecipeError:
        return {}


def _lists(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {
        name: value
        for name, value in (found.items() if isinstance(found, dict) else ())
        if isinstance(value, list) and all(isinstance(source, dict) for source in value)
    }
