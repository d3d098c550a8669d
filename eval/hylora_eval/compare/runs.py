# SPDX-License-Identifier: Apache-2.0
"""Runs to compare: a result file each, or a folder with one result of each kind."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hylora_eval.compare.matching import COMPARED, Loss, Scores, read_figures
from hylora_eval.results import Result

__all__ = ["Run", "find_run", "read_runs"]

_COMMANDS = "hylora eval ppl or hylora eval ruler"


@dataclass(frozen=True)
class Run:
    """One side of a comparison.

    Attributes:
        name: by which it is called: the shortest end of its path that no other run has.
        path: as it was given.
        files: (path, SHA-256) of its result files.
        figures: for each kind of result what it has, by what it is of and context length.
    """

    name: str
    path: Path
    files: tuple[tuple[Path, str], ...]
    figures: dict[str, dict[tuple[str, int], Loss | Scores]]


def read_runs(paths: Iterable[str | os.PathLike]) -> list[Run]:
    """Read the results of runs.

    Args:
        paths: result files, or folders with result files in them (not in folders below), at least two.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if there are fewer than two, one holds no result that can be compared, a folder holds two of one
            kind, or a result is damaged, naming the file.
    """
    paths = [Path(path) for path in paths]
    if len({path.resolve() for path in paths}) < max(2, len(paths)):
        raise ValueError(f"{', '.join(map(repr, map(str, paths)))}: give two or more different results to compare")
    return [_read(name, path) for name, path in zip(_names(paths), paths, strict=True)]


def find_run(runs: Sequence[Run], wanted: str | None) -> Run:
    """The run of that name or path; without one the first.

    Raises:
        ValueError: if there is none.
    """
    for run in runs:
        if wanted is None or wanted == run.name or Path(wanted) == run.path:
            return run
    raise ValueError(f"baseline={wanted!r} is none of {', '.join(run.name for run in runs)}; name one of them")


def _read(name: str, path: Path) -> Run:
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} does not exist; give result files, or folders that hold them")
    files, figures = {}, {}
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        content = file.read_bytes()
        result = Result.parse(content)
        if result is None or result.kind not in COMPARED:
            continue
        if result.kind in figures:
            both = f"{files[result.kind][0].name!r} and {file.name!r}"
            raise ValueError(f"the folder {str(path)!r} holds {both}, both of kind {result.kind!r}; give the files")
        try:
            figures[result.kind] = read_figures(result)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        files[result.kind] = file, hashlib.sha256(content).hexdigest()
    if not figures:
        raise ValueError(f"{str(path)!r} holds no result of {_COMMANDS}, the kinds that can be compared")
    return Run(name, path, tuple(files.values()), figures)


def _names(paths: Sequence[Path]) -> Iterator[str]:
    """The shortest ends of paths that differ, without what files end in."""
    parts = [path.absolute().with_suffix("" if path.is_file() else path.suffix).parts for path in paths]
    for path, own in zip(paths, parts, strict=True):
        ends = (own[-size:] for size in range(1, len(own) + 1))
        apart = (end for end in ends if [other[-len(end) :] for other in parts].count(end) == 1)
        # A folder may be called as a file but for its ending.
        yield "/".join(next(apart, path.parts))
