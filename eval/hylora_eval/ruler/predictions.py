# SPDX-License-Identifier: Apache-2.0
"""Predictions, kept as they are made, so that an interrupted evaluation goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hylora_eval.results import check_same

__all__ = ["Prediction", "Predictions"]


@dataclass(frozen=True)
class Prediction:
    """What was generated for one sample.

    Attributes:
        length: tokens asked for.
        task: name of the task.
        index: number of the sample.
        prompt_sha256: of the prompt's text.
        prediction: what was generated.
        tokens: how many tokens that was.
        seconds: its share of the time that its batch took.
    """

    length: int
    task: str
    index: int
    prompt_sha256: str
    prediction: str
    tokens: int
    seconds: float


class Predictions:
    """Predictions in memory and, if a path is given, in a file of JSON lines.

    The first line of the file says under which settings they were made. A line that an interruption cut short is
    dropped.

    Args:
        settings: all that predictions depend on beside their prompts; plain JSON types.
        path: of the file; None keeps nothing.

    Raises:
        ValueError: if the file was made under other settings, naming the first that differs, or is no such file.
        OSError: if it cannot be read or written.
    """

    def __init__(self, settings: dict[str, Any], path: str | os.PathLike | None = None) -> None:
        self._path = None if path is None else Path(path)
        self._made: dict[tuple[int, str, int], Prediction] = {}
        if self._path is None:
            return
        if not self._path.exists() or _ends_in_first_line(self._path.read_bytes()):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_bytes(b"")
            self._append([{"settings": settings}])
        else:
            self._read(settings)

    def of(self, length: int, task: str, hashes: list[str]) -> dict[int, Prediction]:
        """The predictions there are for a task at a length, by number.

        Args:
            length: tokens asked for.
            task: name of the task.
            hashes: SHA-256 of the prompt of each sample.

        Raises:
            ValueError: if one was made for another prompt.
        """
        found = {}
        for index, digest in enumerate(hashes):
            prediction = self._made.get((length, task, index))
            if prediction is None:
                continue
            if prediction.prompt_sha256 != digest:
                raise ValueError(
                    f"{str(self._path)!r} holds a prediction for another prompt of {task}, sample {index} at length "
                    f"{length}: the haystack, how it is split, another file or a version has changed; choose another "
                    "output or start anew"
                )
            found[index] = prediction
        return found

    def add(self, predictions: list[Prediction]) -> None:
        """Keep predictions; they are on disk when this returns."""
        for prediction in predictions:
            self._made[prediction.length, prediction.task, prediction.index] = prediction
        if self._path is not None:
            self._append(map(asdict, predictions))

    def _append(self, lines: Iterable[dict[str, Any]]) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())

    def _read(self, settings: dict[str, Any]) -> None:
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            head, *lines = [json.loads(line) for line in whole.splitlines()]
            kept = head["settings"]
            made = [Prediction(**line) for line in lines]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(self._path)!r} is not a file of predictions ({type(error).__name__}: {error}); choose another "
                "output or remove it"
            ) from error
        check_same(self._path, kept, settings)
        self._made = {(line.length, line.task, line.index): line for line in made}
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))


def _ends_in_first_line(content: bytes) -> bool:
    """Whether a file was cut short before anything was kept in it."""
    return b"\n" not in content and content.startswith(b'{"settings": '[: len(content)])
