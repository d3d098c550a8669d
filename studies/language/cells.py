# SPDX-License-Identifier: Apache-2.0
"""The study as data: its models, its settings, its questions, and the cells that they ask for.

A cell is one model fine-tuned in one setting with one seed, and measured. Several questions may ask for the same cell.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

__all__ = ["HERE", "MODELS", "QUESTIONS", "Cell", "Question", "check_bases", "recipe_sha256", "settings"]

HERE = Path(__file__).parent
# A model without convolutions has none to train, as in the thesis.
MODELS = {"hybrid": [], "transformer": ["adapter.variant=longlora"]}


@cache
def recipe_sha256() -> str:
    """Of what the recipe of fine-tuning says, whatever its comments."""
    content = yaml.safe_load((HERE / "recipes/tune.yaml").read_text())
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def settings() -> dict[str, list[str] | None]:
    """What each setting overrides in the recipe of fine-tuning; None for the model that is not fine-tuned."""
    found = yaml.safe_load((HERE / "settings.yaml").read_text())
    return {name: None if parts is None else _flat(parts) for name, parts in found.items()}


def _flat(parts: list) -> list[str]:
    """The overrides of a list in which YAML's anchors stand as lists."""
    return [text for part in parts for text in (_flat(part) if isinstance(part, list) else [part])]


@dataclass(frozen=True)
class Cell:
    """A model, a setting and a seed."""

    model: str
    setting: str
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.model}/{self.setting.replace(' ', '_').replace('/', '_over_')}-{self.seed}"

    @property
    def overrides(self) -> list[str] | None:
        """Of the recipe of fine-tuning; None where there is none."""
        own = settings()[self.setting]
        return None if own is None else [text.format(seed=self.seed) for text in (*MODELS[self.model], *own)]

    @property
    def path(self) -> Path:
        """Of its result."""
        return HERE / "results" / f"{self.name}.json"

    def result(self) -> dict[str, Any] | None:
        """What was found; None where that is still to do, or was found under another recipe."""
        if not self.path.exists():
            return None
        found = json.loads(self.path.read_text())
        now = {"overrides": self.overrides, "recipe": recipe_sha256()}
        return found if now.items() <= found.items() else None


@dataclass(frozen=True)
class Question:
    """What a file of questions/ says.

    Attributes:
        title: of its section.
        source: in the thesis; None for one of ours.
        settings: that are compared, the first of which is the baseline, by model.
        claims: see `claims.py`.
        seeds: of each setting.
    """

    name: str
    title: str
    source: str | None
    settings: dict[str, list[str]]
    claims: list[dict[str, Any]]
    seeds: int = 3

    @classmethod
    def load(cls, name: str) -> Question:
        """Read one, and check that its settings exist."""
        found = yaml.safe_load((HERE / "questions" / f"{name}.yaml").read_text())
        question = cls(name, **{"source": None, "claims": [], **found})
        for model, names in question.settings.items():
            if unknown := [one for one in names if one not in settings()] + [model] * (model not in MODELS):
                raise SystemExit(f"questions/{name}.yaml names {unknown[0]!r}, which settings.yaml does not know")
        return question

    def cells(self) -> list[Cell]:
        """Those it asks for, seed by seed."""
        return [
            Cell(model, setting, seed)
            for seed in range(self.seeds)
            for model, names in self.settings.items()
            for setting in names
        ]


QUESTIONS = tuple(sorted(path.stem for path in (HERE / "questions").glob("*.yaml")))


def check_bases() -> None:
    """Refuse results of one model that start from different weights.

    Raises:
        SystemExit: naming two of them.
    """
    for model in MODELS:
        first: tuple[str, Path] | None = None
        for path in sorted((HERE / "results" / model).glob("*.json")):
            base = json.loads(path.read_text())["base"]
            first = first or (base, path)
            if base != first[0]:
                raise SystemExit(
                    f"{path} and {first[1]} are of two models; run one of them --again, with all its kind"
                )
