# SPDX-License-Identifier: Apache-2.0
"""From the path in a recipe to a dataset of raw records."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import logging
import re
from collections import Counter
from pathlib import Path

import datasets

from hylora.language.data.recipe import SourceRecipe
from hylora.runs.fingerprint import fingerprint
from hylora.words import nearest

__all__ = ["explain", "load_source", "source_fingerprint"]

logger = logging.getLogger(__name__)

_FORMATS = {".txt": "text", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_PICKLES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# Blocks of a file that its fingerprint reads.
_SAMPLES, _SAMPLE_BYTES = 16, 4096


def load_source(
    source: SourceRecipe, key: str, columns: list[str], streaming: bool, cache_dir: str | None
) -> datasets.Dataset | datasets.IterableDataset:
    """Open a source and keep the columns that make its documents.

    Args:
        source: where the data is.
        key: how the recipe names the source, for messages.
        columns: the fields to keep.
        streaming: read on the fly instead of converting to memory-mapped Arrow files.
        cache_dir: where those files are kept; `None` is the default of `datasets`.

    Returns:
        The records in the order of the source (files in the order of their names), cut at `source.max_documents`.

    Raises:
        ValueError: for a missing or unreadable file, an unsupported format, an unreachable Hub, or a field that the
            records do not have.
    """
    files = _local_files(source.path, key)
    if files is not None:
        kind = _one_format(files, source.path, key)
        # Not every reader of `datasets` can take a file of no bytes.
        files = [file for file in files if file.stat().st_size > 0]
        if not files:
            raise ValueError(f"{key}.path={source.path!r} must hold documents, and its files are empty; fill them")
    options = {"split": source.split, "streaming": streaming, "cache_dir": cache_dir}
    try:
        if files is None:
            dataset = datasets.load_dataset(source.path, source.subset, revision=source.revision, **options)
        else:
            # A byte order mark at the beginning of a text is none of its characters.
            reader = {"sample_by": "document", "encoding": "utf-8-sig"} if kind == "text" else {}
            names = [glob.escape(str(file)) for file in files]
            dataset = datasets.load_dataset(kind, data_files=names, **options, **reader)
        found = _column_names(dataset)
    # `datasets` refuses a dataset that is a loading script with a RuntimeError.
    except (OSError, ValueError, RuntimeError, StopIteration, datasets.exceptions.DatasetsError) as error:
        raise ValueError(explain(source.path, key, cache_dir, error)) from error
    _check_columns(source, key, columns, found)
    dataset = dataset.select_columns(columns)
    if source.max_documents is None:
        return dataset
    if streaming:
        return dataset.take(source.max_documents)
    return dataset.select(range(min(source.max_documents, len(dataset))))


def source_fingerprint(source: SourceRecipe, key: str) -> str:
    """A hash of what is known of a source without reading all of it.

    Args:
        source: where the data is.
        key: how the recipe names the source, for messages.

    Returns:
        Of local files a hash of their names, their sizes and parts of their content; of a dataset on the Hub a hash
        of its names. Where a folder lies makes no difference.
    """
    files = _local_files(source.path, key)
    if files is None:
        return fingerprint([source.path, source.subset, source.split, source.revision])
    return fingerprint([source.split, [[file.name, file.stat().st_size, _sample(file)] for file in files]])


def _sample(file: Path) -> str:
    """A hash of evenly spaced blocks of a file; of all of it where it is small."""
    size, digest = file.stat().st_size, hashlib.blake2b(digest_size=16)
    with open(file, "rb") as stream:
        for start in range(0, size, max(size // _SAMPLES, _SAMPLE_BYTES)):
            stream.seek(start)
            digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def explain(path: str, key: str, cache_dir: str | None, error: Exception) -> str:
    """What to do about a failure of `datasets` or of the disk.

    Args:
        path: of the source that was read.
        key: how the recipe names it.
        cache_dir: where it was to be kept.
        error: what was raised; a failure while converting is told by its cause.
    """
    cause = error.__cause__ or error
    reason = f"{type(cause).__name__}: {cause}"
    cache = str(Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser())
    full = getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "Not enough disk space" in reason
    if full or str(getattr(cause, "filename", None) or "").startswith(cache):
        return (
            f"data.cache_dir={cache!r} must be a folder that can be written, with room for the data ({reason}); make "
            "room, or name another folder"
        )
    files = _local_files(path, key)
    if files is not None:
        broken = type(cause).__name__ in ("UnicodeDecodeError", "ArrowInvalid", "JSONDecodeError")
        place = broken and _unreadable_line(files)
        return f"{key}.path={path!r} must be readable ({reason}); {place or 'check the files and the split'}"
    return (
        f"{key}.path={path!r} must be a local file or folder, or a dataset that can be read from the Hub ({reason}); "
        "check the spelling, subset, split and revision; for a private dataset log in with `hf auth login`; without a "
        "network, download it first and give the path of its folder"
    )


def _unreadable_line(files: list[Path]) -> str | None:
    """Where the first line lies that is not UTF-8, or not JSON in a file with JSON in every line."""
    for file in files:
        if file.suffix == ".parquet":
            continue
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    text = line.decode("utf-8-sig")
                    if file.suffix == ".jsonl" and text.strip():
                        json.loads(text)
                except ValueError as error:
                    return f"correct line {number} of {str(file)!r} ({error})"
    return None


def _local_files(path: str, key: str) -> list[Path] | None:
    """The files behind a path in the order of their names, or `None` for a dataset on the Hub."""
    local = Path(path).expanduser()
    if local.is_dir():
        return _files_of_folder(local, key)
    if local.is_file():
        return [local]
    if glob.has_magic(path):
        files = sorted(Path(name) for name in glob.glob(str(local), recursive=True) if Path(name).is_file())
        if not files:
            raise ValueError(
                f"{key}.path={path!r} must match a file; check the pattern, it starts from {str(Path.cwd())!r}"
            )
        return files
    # A name inside a folder that is here is a misspelt path; the Hub would be asked for it in vain, and slowly.
    within = "/" in path and local.parent.is_dir()
    if within or local.suffix in _FORMATS.keys() | _PICKLES or not _HUB_ID.fullmatch(path):
        raise ValueError(
            f"{key}.path={path!r} does not exist; check the name, relative paths start from {str(Path.cwd())!r}"
        )
    return None


def _files_of_folder(folder: Path, key: str) -> list[Path]:
    """The data files below a folder; a README or a licence beside them is left alone, hidden files too."""
    visible = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    files = [file for file in visible if file.suffix in _FORMATS]
    if not files:
        raise ValueError(
            f"{key}.path={str(folder)!r} must hold files that end in {', '.join(_FORMATS)}, and has none; convert the "
            "data to one of these"
        )
    if len(files) < len(visible):
        logger.warning("%s.path: %d other files in %s are not read", key, len(visible) - len(files), folder)
    return files


def _one_format(files: list[Path], path: str, key: str) -> str:
    """The name of the builder that reads all the files."""
    for file in files:
        if file.suffix in _PICKLES:
            raise ValueError(
                f"{key}.path={str(file)!r} must not be a pickle, which can run code when it is read; convert it to "
                ".jsonl or .parquet"
            )
        if file.suffix not in _FORMATS:
            raise ValueError(
                f"{key}.path={str(file)!r} must end in one of {', '.join(_FORMATS)}; convert it to one of these"
            )
    counts = Counter(_FORMATS[file.suffix] for file in files)
    if len(counts) > 1:
        mixture = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        raise ValueError(
            f"{key}.path={path!r} must hold files of one format, not {mixture}; make each format a source of its own, "
            "with a glob such as 'folder/**/*.txt'"
        )
    return next(iter(counts))


def _column_names(dataset: datasets.Dataset | datasets.IterableDataset) -> list[str]:
    """The fields of the records; a stream may have to read its first record to know."""
    if dataset.column_names is not None:
        return dataset.column_names
    return list(next(iter(dataset), {}))


def _check_columns(source: SourceRecipe, key: str, columns: list[str], found: list[str]) -> None:
    """Raise for a field that is missing from the records, with the nearest one that is there."""
    if not found:
        raise ValueError(f"{key}.path={source.path!r} must hold documents; check its content and split")
    for column in columns:
        if column not in found:
            field = next(name for name, value in vars(source).items() if name.endswith("_field") and value == column)
            raise ValueError(
                f"{key}.{field}={column!r} must be a field of {source.path!r}, which has {', '.join(found)}; did you "
                f"mean {nearest(column, found)!r}?"
            )
