# SPDX-License-Identifier: Apache-2.0
"""A whole run: from a recipe and a task to a folder with results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from hylora.environment import environment
from hylora.files import write_atomically
from hylora.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from hylora.training.loop import Outcome, Trainer
from hylora.training.optimizer import check_optimizer, trainable
from hylora.training.parallelism import build_accelerator
from hylora.training.processes import on_all, on_main, shape_of
from hylora.training.recipe import Recipe
from hylora.training.reporting import check_trackers, flatten
from hylora.training.run_folder import RunFolder
from hylora.training.stopping import Stopped, StopRequest
from hylora.training.task import Task

__all__ = ["RunResult", "run"]


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Args:
        folder: of the run; it holds the results when the run is finished.
        steps: updates made.
        evaluation: held-out metrics at the end, empty without held-out data.
        stopped_by: the signal that stopped it before its end, or None.
    """

    folder: Path
    steps: int
    evaluation: dict[str, float]
    stopped_by: str | None = None


def run(recipe: Recipe, make_task: Callable[[Any, Accelerator], Task]) -> RunResult:
    """Train as a recipe says; with several processes, each calls this.

    What can be checked is checked first: no model is loaded, no data read and nothing deleted for a recipe that cannot
    work.

    Args:
        recipe: the recipe.
        make_task: from the recipe to what is trained.

    Returns:
        What it came to. A run that a signal stopped has saved a checkpoint and exported nothing.

    Raises:
        RecipeError: if the recipe cannot work here.
        TrainingError: if training diverges.
        CheckpointError: if a checkpoint cannot be written or read, or the results cannot be written.
    """
    check_trackers(recipe.tracking.trackers)
    check_optimizer(recipe.optimizer)
    folder = RunFolder(recipe.output.path)
    with StopRequest() as stop:
        try:
            return _run(recipe, make_task, folder, stop)
        except Stopped:
            # Nothing was trained yet.
            return RunResult(folder.path, 0, {}, stop.received)


def _run(
    recipe: Recipe, make_task: Callable[[Any, Accelerator], Task], folder: RunFolder, stop: StopRequest
) -> RunResult:
    accelerator = build_accelerator(recipe.training, recipe.tracking, folder.logs)
    on_main(accelerator, lambda: folder.check(recipe))
    with contextlib.ExitStack() as stack:
        on_main(accelerator, lambda: stack.enter_context(folder.locked()))
        task = make_task(recipe, accelerator)
        on_main(accelerator, lambda: folder.check_space(_bytes_needed(task, recipe)))
        trainer = Trainer(task, accelerator, folder, recipe, stop)
        with stop.deferred():
            path = on_main(accelerator, lambda: folder.claim(recipe, task.last_file))
            checkpoint = None if path is None else on_all(accelerator, lambda: load_checkpoint(path))
            on_main(accelerator, lambda: folder.describe_data(task.describe()))
            if recipe.tracking.trackers:
                accelerator.init_trackers(recipe.tracking.project, config=flatten(recipe.to_tree()))
            return _train_and_export(task, recipe, accelerator, folder, trainer, checkpoint)


def _train_and_export(
    task: Task,
    recipe: Recipe,
    accelerator: Accelerator,
    folder: RunFolder,
    trainer: Trainer,
    checkpoint: Checkpoint | None,
) -> RunResult:
    try:
        outcome = trainer.run(checkpoint)
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
    if outcome.stopped_by is None:
        state = trainer.gathered_state()

        def write(path: Path) -> None:
            task.save(path, state)
            _write_results(path, task, recipe, outcome)

        try:
            on_main(accelerator, lambda: folder.export(write, last=task.last_file))
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the results could not be written to {str(folder.path)!r}: {error}. {trainer.rescue()}"
            ) from error
    return RunResult(folder.path, outcome.step, outcome.evaluation, outcome.stopped_by)


def _write_results(folder: Path, task: Task, recipe: Recipe, outcome: Outcome) -> None:
    found = task.results()
    if found is None:
        return
    results = {
        "kind": "training",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": recipe.to_tree(),
        "updates": outcome.step,
        "seconds": outcome.seconds,
        "peak_bytes": outcome.memory,
        "evaluation": outcome.evaluation,
        **outcome.measured,
        **found,
        "environment": environment(),
    }
    write_atomically(folder / "results.json", json.dumps(results, indent=2) + "\n")


def _bytes_needed(task: Task, recipe: Recipe) -> int:
    """Disk space for checkpoints (weights and two moments; one more than is kept, while it is written) and results."""
    weights = sum(shape_of(each).numel() * each.element_size() for each in trainable(task.model).values())
    checkpoints = recipe.output.keep_checkpoints + 1 if recipe.output.checkpoint_every else 1
    return weights * (3 * checkpoints + 1)
