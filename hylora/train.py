# SPDX-License-Identifier: Apache-2.0
"""Train as a recipe says: `accelerate launch -m hylora.train recipe.yaml [section.key=value ...]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hylora.training.checkpoint import CheckpointError
from hylora.training.loop import TrainingError
from hylora.training.parallelism import process_state
from hylora.training.recipe import RecipeError
from hylora.training.recipe_loading import parse_overrides, read_yaml
from hylora.training.run import run as train
from hylora.training.tasks import find_task

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
        state = process_state()
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    try:
        tree = parse_overrides(read_yaml(recipe), overrides)
        kind = find_task(tree)
        result = train(kind.recipe.from_tree(tree), kind.make)
        if state.is_main_process and result.stopped_by is None:
            print(f"finished after {result.steps} updates; results in {result.folder}", file=sys.stderr)
            if kind.advice:
                print(kind.advice.format(folder=result.folder), file=sys.stderr)
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
