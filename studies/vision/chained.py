# SPDX-License-Identifier: Apache-2.0
"""Runs of studies in which some begin with what others have learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hylora.training.recipe_loading import parse_overrides
from hylora.training.tasks import find_task
from hylora.training.whole_run import run

__all__ = ["trained"]


def trained(tree: dict[str, Any], overrides: list[str], seed: int, folder: Path) -> dict[str, Any]:
    """What a run came to, trained now unless its folder has the results of this very recipe.

    Args:
        tree: of a recipe, as plain values.
        overrides: of the recipe, as on the command line.
        seed: of the run.
        folder: of the run.
    """
    last = [f"training.seed={seed}", f"output.path={folder}", "output.checkpoint_every=0", "output.overwrite=true"]
    last += ["tracking.progress=false", "evaluation.every=0"]
    kind = find_task(tree)
    recipe = kind.recipe.from_tree(parse_overrides(tree, [*overrides, *last]))
    results = folder / "results.json"
    # What recipes have learned to say since stands at its default.
    if not results.exists() or kind.recipe.from_tree(json.loads(results.read_text())["recipe"]) != recipe:
        run(recipe, kind.make)
    return json.loads(results.read_text())
