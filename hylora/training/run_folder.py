# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: whose it is, what may change when it is resumed, and how results get into it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from hylora.files import PARTIAL, apply_umask, disk_errors, flush, write_atomically
from hylora.training.checkpoint import CheckpointError, latest_checkpoint
from hylora.training.recipe import Recipe, RecipeError
from hylora.training.recipe_loading import read_yaml
from hylora.training.reporting import flatten

__all__ = ["RunFolder"]

_LOCK = ".lock"
# A lock of the process keeps out other processes, and is lost when this one closes the file a second time.
_held: set[Path] = set()

# What a run writes beside its folders. The tokenizer's files are left for the new run to write over.
_RESULTS = (
    "metrics.jsonl",
    "data.json",
    "results.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "*config.json",
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
            raise RecipeError(f"output.path={str(self.path)!r} must be a folder, and is a file; name a folder")
        for key, source in recipe.inputs().items():
            if Path(source).resolve() == self.path.resolve():
                raise RecipeError(
                    f"output.path={str(self.path)!r} is also {key}, and the run would replace the model it starts "
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
        elif self.path.is_dir() and any(not _is_ours(path) for path in self.path.iterdir()):
            raise RecipeError(f"output.path={str(self.path)!r} is not empty and holds no run; choose another folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as file:
                file.write(b"0")
        except OSError as error:
            raise RecipeError(f"output.path={str(self.path)!r} cannot be written: {error}") from error

    def _check_same_run(self, recipe: Recipe) -> None:
        try:
            tree = recipe.load(self.recipe).to_tree()  # keys that are younger than the run have their defaults
        except RecipeError:
            tree = read_yaml(self.recipe)  # of another task, say
        before, now = flatten(tree), flatten(recipe.to_tree())
        changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
        changed = [key for key in changed if not key.startswith(recipe.FREE_ON_RESUME)]
        if not recipe.depends_on_steps() and "training.steps" in changed:
            changed.remove("training.steps")
        if changed:
            details = ", ".join(f"{key} ({before.get(key)!r} -> {now.get(key)!r})" for key in changed)
            raise RecipeError(
                f"the run in {str(self.path)!r} cannot be resumed with other values of {details}; restore them, or "
                "start a new run in another output.path"
            )

    def _holds_run(self) -> bool:
        try:
            # A recipe is the first and the last that a run writes here: where one is, a run is.
            return {"training", "output"} <= read_yaml(self.recipe).keys()
        except RecipeError:
            return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the folder for this process, until the block or the process ends, however it ends.

        Raises:
            RecipeError: if another process has it, naming that.
        """
        path = self.path / _LOCK
        key = path.resolve()
        if key in _held:
            raise RecipeError(
                f"output.path={str(self.path)!r} is in use by another run of this process; wait for it, or choose "
                "another folder"
            )
        with open(path, "a+", encoding="utf-8") as file:
            try:
                # A lock of the process, not of the file: workers that it forks do not hold it when it is killed.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The holder may have removed the file between our opening and locking it.
                held = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
            except (BlockingIOError, PermissionError, FileNotFoundError):
                held = False
            except OSError as error:
                raise RecipeError(
                    f"output.path={str(self.path)!r} cannot be locked: {error}; choose a folder on a file system with "
                    "locks, such as a local disk"
                ) from error
            if not held:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise RecipeError(
                    f"output.path={str(self.path)!r} is in use by {holder}; wait for it, stop it, or choose another "
                    "folder"
                )
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}\n")
            file.flush()
            _held.add(key)
            try:
                yield
            finally:
                _held.discard(key)
                path.unlink(missing_ok=True)

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

    def claim(self, recipe: Recipe, last_file: str = "") -> Path | None:
        """Make the folder this run's: delete a run that is to be replaced, and write the recipe.

        To be called under the lock; the folder is checked once more, for another run may have come and gone.

        Args:
            recipe: of the run.
            last_file: whose presence says that the folder holds results.

        Returns:
            The checkpoint to continue from, or None to start.

        Raises:
            RecipeError: as `check`.
            CheckpointError: if the folder cannot be written, or there are only damaged checkpoints.
        """
        self.check(recipe)
        try:
            for path in self.path.iterdir():
                if path.name.startswith(PARTIAL):
                    _remove(path)
            if not recipe.training.resume and self._holds_run():
                # The recipe is replaced last: until then, this is the old run, in whatever state.
                results = (path for name in _RESULTS for path in self.path.glob(name))
                for path in (self.path / last_file, self.checkpoints, self.logs, *results):
                    if path != self.path:
                        _remove(path)
            recipe.save(self.recipe)
        except OSError as error:
            raise CheckpointError(f"output.path={str(self.path)!r} cannot be written: {error}") from error
        return latest_checkpoint(self.checkpoints) if recipe.training.resume else None

    def describe_data(self, description: Mapping[str, Any]) -> None:
        """Write what the data came to: documents, tokens, rows, and what was dropped or held out, by source."""
        write_atomically(self.path / "data.json", json.dumps(description, indent=2) + "\n")

    def export(self, save: Callable[[Path], Any], last: str) -> None:
        """Put results into the folder; files appear there only when all of them are written.

        Args:
            save: writes files into the folder it is given.
            last: name of the file that is moved last: where it is, everything is.
        """
        with tempfile.TemporaryDirectory(dir=self.path, prefix=PARTIAL) as name:
            with disk_errors(self.path):
                save(Path(name))
            apply_umask(name)
            for path in Path(name).rglob("*"):
                flush(path)
            for path in sorted(Path(name).iterdir(), key=lambda path: path.name == last):
                target = self.path / path.name
                if target.is_dir():
                    shutil.rmtree(target)
                os.replace(path, target)
            flush(self.path)


def _is_ours(path: Path) -> bool:
    """Whether a crash of a run that was about to claim the folder may have left it."""
    return path.name == _LOCK or path.name.startswith(PARTIAL)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
