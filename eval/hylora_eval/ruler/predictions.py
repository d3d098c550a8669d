# SPDX-License-Identifier: Apache-2.0
"""Predictions, kept as they are made, so that an interrupted evaluation goes on where it was."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from hylora_eval.journal import Journal

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
    """Predictions in memory and, if a path is given, in a journal.

    Args:
        settings: all that predictions depend on beside their prompts; plain JSON types.
        path: of the journal; None keeps nothing.

    Raises:
        ValueError: if the file was made under other settings, naming the first that differs, or is no such file.
        OSError: if it cannot be read or written.
    """

    def __init__(self, settings: dict[str, Any], path: str | os.PathLike | None = None) -> None:
        self._journal = None if path is None else Journal(path, settings)
        self._path = path
        try:
            made = [] if self._journal is None else [Prediction(**line) for line in self._journal.lines]
        except TypeError as error:
            raise ValueError(
                f"{os.fspath(path)!r} is not a file of predictions ({error}); choose another output or remove it"
            ) from error
        self._made = {(one.length, one.task, one.index): one for one in made}

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
                    f"{os.fspath(self._path)!r} holds a prediction for another prompt of {task}, sample {index} at "
                    f"length {length}: the haystack, how it is split, another file or a version has changed; choose "
                    "another output or start anew"
                )
            found[index] = prediction
        return found

    def add(self, predictions: list[Prediction]) -> None:
        """Keep predictions; they are on disk when this returns."""
        for prediction in predictions:
            self._made[prediction.length, prediction.task, prediction.index] = prediction
            if self._journal is not None:
                self._journal.add(asdict(prediction))
