# SPDX-License-Identifier: Apache-2.0
"""Find result files and read their numbers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hylora_eval.report.header import read_source
from hylora_eval.report.measurements import Measurement, Source
from hylora_eval.report.readers import READERS
from hylora_eval.results import Result

__all__ = ["Collection", "collect"]

# What models' and runs' folders hold beside results.
_NOT_RESULTS = {
    "adapter_config.json",
    "added_tokens.json",
    "config.json",
    "data.json",
    "generation_config.json",
    "hylora.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
}
_NOT_SEARCHED = {"checkpoints", "logs"}


@dataclass(frozen=True)
class Collection:
    """What was found.

    Attributes:
        measurements: of each thing the newest.
        sources: the result files.
        damaged: (path, why) of result files that cannot be read, with the field; nothing of them is in the report.
        skipped: (path, why) of files that hold nothing for a report.
        superseded: (older, newer) measurements of the same thing.
    """

    measurements: tuple[Measurement, ...]
    sources: tuple[Source, ...]
    damaged: tuple[tuple[Path, str], ...]
    skipped: tuple[tuple[Path, str], ...]
    superseded: tuple[tuple[Measurement, Measurement], ...]


def collect(paths: Iterable[str | os.PathLike]) -> Collection:
    """Read result files.

    Args:
        paths: result files of `hylora eval` or lm-eval, or folders that are searched for them.

    Returns:
        What was found. JSON that is no result, and files that are no JSON, are listed as skipped. Results that cannot
        be read are listed as damaged, and the others are reported without them.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if there is no result, or none that can be read; it names each file and why.
    """
    measurements: list[Measurement] = []
    sources: list[Source] = []
    damaged: list[tuple[Path, str]] = []
    skipped: list[tuple[Path, str]] = []
    known: dict[str, Path] = {}
    for path in _files([Path(path) for path in paths]):
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        result = Result.parse(content)
        why = _why_not(result)
        if why is None and sha256 in known:
            why = f"the same as {known[sha256]}"
        if why is not None:
            skipped.append((path, why))
            continue
        known[sha256] = path
        try:
            source = read_source(result, len(sources) + 1, path, sha256)
            found = list(READERS[source.kind](result, source))
        except ValueError as error:
            damaged.append((path, str(error)))
            continue
        if found:
            sources.append(source)
            measurements += found
        else:
            skipped.append((path, "holds no number yet"))
    if not measurements:
        reasons = "".join(f"\n  {path}: {why}" for path, why in (*damaged, *skipped))
        raise ValueError(f"there is no result to report; give files of `hylora eval ... --output`.{reasons}")
    newest, superseded = _newest(measurements)
    return Collection(newest, tuple(sources), tuple(damaged), tuple(skipped), superseded)


def _files(paths: list[Path]) -> Iterator[Path]:
    """Files that may be results, each once."""
    seen = set()
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{str(path)!r} does not exist; give result files, or folders that hold them")
        for file in _search(path) if path.is_dir() else [path]:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def _search(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _NOT_SEARCHED and not name.startswith("."))
        for name in sorted(files):
            if name.endswith(".json") and not name.endswith(".index.json") and name not in _NOT_RESULTS:
                yield Path(parent) / name


def _why_not(result: Result | None) -> str | None:
    """Why a file is left out."""
    if result is None:
        return "not JSON"
    if result.kind is None:
        return "JSON, but no result of `hylora eval` or lm-eval"
    return None if result.kind in READERS else f"a result of kind {result.kind!r}, for which there is no table"


def _newest(measurements: list[Measurement]) -> tuple[tuple[Measurement, ...], tuple]:
    """Of measurements of the same thing the newest, and the pairs that were told apart so."""
    groups: dict[tuple, list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault(measurement.key, []).append(measurement)
    newest, superseded = [], []
    for group in groups.values():
        # Sorting is stable: without dates, the file that was named last counts.
        *older, chosen = sorted(group, key=lambda measurement: measurement.places[0].source.created)
        newest.append(chosen)
        superseded += [(measurement, chosen) for measurement in older]
    return tuple(newest), tuple(superseded)
