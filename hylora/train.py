# SPDX-License-Identifier: Apache-2.0
"""Train as a recipe says: `accelerate launch -m hylora.train recipe.yaml [section.key=value ...]`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hylora.runs.whereabouts import check_exists
from hylora.training.recipe_loading import RecipeError, parse_overrides, read_yaml
from hylora.training.tasks import TaskKind, find_task

if TYPE_CHECKING:
    from hylora.training.recipe import Recipe

__all__ = ["EXIT_FAILED", "EXIT_STOPPED", "EXIT_WRONG_RECIPE", "main", "run"]

EXIT_FAILED = 1
EXIT_WRONG_RECIPE = 2
# The code of sysexits.h for a temporary failure: start the same command again, with training.resume=true.
EXIT_STOPPED = 75


def run(recipe: str, overrides: Sequence[str] = ()) -> int:
    """Load a recipe and train what its `task` names.

    Args:
        recipe: path of the YAML file.
        overrides: `section.key=value` settings.

    Returns:
        The exit status: 0, or one of the constants of this module, after a message on standard error.
    """
    try:
        kind, wanted = _read(recipe, overrides)
    except RecipeError as error:
        # Which process this is nobody but the launcher has said yet.
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return EXIT_WRONG_RECIPE
    return _train(kind, wanted)


def _read(path: str, overrides: Sequence[str]) -> tuple[TaskKind, Recipe]:
    """A recipe and what it trains. What is wrong with it shows before torch is imported, which takes seconds."""
    tree = parse_overrides(read_yaml(path), overrides)
    kind = find_task(tree)
    recipe = kind.recipe.from_tree(tree)
    for key, source in recipe.inputs().items():
        try:
            check_exists(source)
        except FileNotFoundError as error:
            raise RecipeError(f"{key}={source!r} cannot be read: {error}") from error
    return kind, recipe


def _train(kind: TaskKind, recipe: Recipe) -> int:
    """Train, and tell what came of it; the exit status."""
    from hylora.training.checkpoint import CheckpointError
    from hylora.training.loop import TrainingError
    from hylora.training.parallelism import process_state
    from hylora.training.whole_run import run as train

    try:
        state = process_state()
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    try:
        result = train(recipe, kind.make)
        if state.is_main_process and result.stopped_by is None:
            print(f"finished after {result.steps} updates; results in {result.folder}", file=sys.stderr)
            if kind.advise is not None:
                print(kind.advise(result.folder), file=sys.stderr)
        return 0 if result.stopped_by is None else EXIT_STOPPED
    except (TrainingError, CheckpointError, ValueError, OSError) as error:
        # These, all processes come to together; of others only the one that has it knows.
        shared = isinstance(error, (TrainingError, CheckpointError, RecipeError))
        if state.is_main_process or not shared:
            where = "" if state.num_processes == 1 or shared else f" in process {state.process_index}"
            print(f"error{where}: {error}", file=sys.stderr)
        return EXIT_WRONG_RECIPE if isinstance(error, RecipeError) else EXIT_FAILED
    finally:
        state.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of the module."""
    parser = argparse.ArgumentParser(prog="python -m hylora.train", description=__doc__)
    parser.add_argument("recipe", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that replace the recipe's")
    parsed = parser.parse_args(arguments)
    return run(parsed.recipe, parsed.overrides)


if __name__ == "__main__":
    sys.exit(main())
