# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: whose it is, what may change when it is resumed, and how results get into it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hylora.training.checkpoint import latest_checkpoint
from hylora.training.recipe import Recipe, RecipeError
from hylora.training.recipe_loading import read_yaml
from hylora.training.trackers import flatten

__all__ = ["RunFolder"]

# Keys that do not change what is computed beyond rounding, so that a resumed run may change them.
_FREE_ON_RESUME = (
    "output.",
    "tracking.",
    "evaluation.",
    "training.resume",
    "training.batch_size",
    "training.gradient_checkpointing",
    "training.loss_slice",
    "data.num_proc",
    "data.cache_dir",
)

# What a run writes beside its folders. The tokenizer's files are left for the new run to write over.
_RESULTS = (
    "metrics.jsonl",
    "recipe.yaml",
    "data.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "*config.json",
    "hylora.json",
)


class RunFolder:
    """One folder, one run.

    Args:
        path: of the folder.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.logs = self.path / "logs"
        self.metrics = self.path / "metrics.jsonl"
        self.recipe = self.path / "recipe.yaml"

    def check(self, recipe: Recipe) -> None:
        """Find out whether a run may use the folder, and whether it can be written; what is in it is left alone.

        Raises:
            RecipeError: if it holds something else, naming the remedy.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RecipeError(f"output.path={str(self.path)!r} is a file; name a folder")
        if recipe.model.path is not None and Path(recipe.model.path).resolve() == self.path.resolve():
            raise RecipeError(
                f"output.path={str(self.path)!r} is also model.path, and the run would replace the model it starts "
                "from; choose another folder"
            )
        if self._holds_run():
            if recipe.training.resume:
                self._check_same_run(recipe)
            elif not recipe.output.overwrite:
                raise RecipeError(
                    f"output.path={str(self.path)!r} holds another run; go on with it by training.resume=true, "
                    "replace it with output.overwrite=true, or choose another folder"
                )
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise RecipeError(f"output.path={str(self.path)!r} is not empty and holds no run; choose another folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as file:
                file.write(b"0")
        except OSError as error:
            raise RecipeError(f"output.path={str(self.path)!r} cannot be written: {error}") from error

    def _check_same_run(self, recipe: Recipe) -> None:
        before, now = flatten(read_yaml(self.recipe)), flatten(recipe.to_tree())
        changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
        changed = [key for key in changed if not key.startswith(_FREE_ON_RESUME)]
        if recipe.optimizer.schedule.name == "constant" and "training.steps" in changed:
            # Only then do the updates made so far not depend on how many will follow.
            changed.remove("training.steps")
        if changed:
            details = ", ".join(f"{key} ({before.get(key)!r} -> {now.get(key)!r})" for key in changed)
            raise RecipeError(
                f"the run in {str(self.path)!r} cannot be resumed with other values of {details}; restore them, or "
                "start a new run in another output.path"
            )

    def _holds_run(self) -> bool:
        return self.recipe.is_file() and self.metrics.is_file()

    def check_space(self, needed: int) -> None:
        """Refuse to start a run whose checkpoints cannot fit on the disk.

        Args:
            needed: bytes.

        Raises:
            RecipeError: if there is less space, free or in the folder's own checkpoints.
        """
        # Checkpoints that are there make way for new ones, whether the run goes on or is replaced.
        taken = sum(file.stat().st_size for file in self.checkpoints.rglob("*") if file.is_file())
        room = shutil.disk_usage(self.path).free + taken
        if room < needed:
            raise RecipeError(
                f"output.path={str(self.path)!r} has room for {room / 2**30:.1f} GiB, but checkpoints and results "
                f"need about {needed / 2**30:.1f} GiB; make room, or lower output.keep_checkpoints"
            )

    def claim(self, recipe: Recipe) -> Path | None:
        """Make the folder this run's, after `check`: delete a run that is to be replaced, and write the recipe.

        Returns:
            The checkpoint to continue from, or None to start.
        """
        if not recipe.training.resume and self._holds_run():
            for path in (self.checkpoints, self.logs):
                shutil.rmtree(path, ignore_errors=True)
            for pattern in _RESULTS:
                for path in self.path.glob(pattern):
                    path.unlink()
        self.metrics.touch()
        # A resumed run must not lose its recipe to a full disk: without it, no run can go on.
        partial = self.recipe.with_suffix(".partial")
        recipe.save(partial)
        os.replace(partial, self.recipe)
        return latest_checkpoint(self.checkpoints)

    def describe_data(self, description: dict[str, Any]) -> None:
        """Write what the data came to: documents, tokens, rows, and what was dropped or held out, by source."""
        (self.path / "data.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")

    def export(self, save: Callable[[Path], Any], last: str) -> None:
        """Put results into the folder; files appear there only when all of them are written.

        Args:
            save: writes files into the folder it is given.
            last: name of the file that is moved last: where it is, everything is.
        """
        with tempfile.TemporaryDirectory(dir=self.path, prefix=".export-") as name:
            save(Path(name))
            for path in sorted(Path(name).iterdir(), key=lambda path: path.name == last):
                os.replace(path, self.path / path.name)
