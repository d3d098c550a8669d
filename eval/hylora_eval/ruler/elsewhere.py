# SPDX-License-Identifier: Apache-2.0
"""Files of prompts for a program that answers them elsewhere, and its answers scored as if they were made here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from hylora.files import atomic_file
from hylora_eval.fingerprints import text_sha256
from hylora_eval.ruler.outcome import LengthResult, TaskResult
from hylora_eval.ruler.records import Record, read_record

__all__ = ["score_answers", "write_prompts"]

_UNCHANGED = "do not change the file of prompts"


def write_prompts(path: str | os.PathLike, samples: Iterable[tuple[int, list[Record]]]) -> int:
    """Write the samples of several lengths and tasks as JSON lines with the official names of fields.

    A model is to read `input + answer_prefix`, greedily for `tokens_to_generate` tokens. `index` numbers the lines
    from 0; `max_seq_length` is the length that was asked for and `sample` the number within task and length.

    Args:
        path: of the file.
        samples: of each length and task, made one after the other; so only those of one are in memory.

    Returns:
        How many were written.

    Raises:
        OSError: if the file cannot be written; it is then as it was.
    """
    index = 0
    with atomic_file(path) as file:
        for length, records in samples:
            for record in records:
                values = asdict(record)
                numbers = {"index": index, "sample": values.pop("index"), "max_seq_length": length}
                file.write(json.dumps({**numbers, **values}).encode() + b"\n")
                index += 1
    return index


def score_answers(prompts: str | os.PathLike, answers: Iterable[str | os.PathLike]) -> list[LengthResult]:
    """Score answers to the prompts of a file.

    Args:
        prompts: a file of `write_prompts`.
        answers: files of JSON lines, each with the "index" of a prompt and its answer as "pred"; together they hold
            one of every prompt, in any order. What the official program writes has the "input" too, which is compared.

    Returns:
        The result at each length, in the order of the prompts; how many seconds it took is not known.

    Raises:
        ValueError: if a line is of another form, or an answer is missing, doubled, or to another prompt.
        OSError: if a file cannot be read.
    """
    given = _read_answers(answers)
    asked, results = 0, {}
    for (length, task), lines in groupby(_read_prompts(prompts), lambda line: (line.length, line.record.task)):
        records, predictions = [], []
        for line in lines:
            records.append(line.record)
            predictions.append(_answer_of(line, given, prompts))
            asked += 1
        results.setdefault(length, {})[task] = TaskResult.of(records, predictions)
    for index, answer in given.items():
        if not 0 <= index < asked:
            raise ValueError(f"{answer.place} has index {index}, but {str(prompts)!r} has {asked} prompts, from 0 on")
    if not results:
        raise ValueError(f"{str(prompts)!r} holds no prompts")
    return [LengthResult(length, tasks) for length, tasks in results.items()]


@dataclass(frozen=True)
class _Line:
    """A line of a file of prompts."""

    index: int
    length: int
    record: Record


@dataclass(frozen=True)
class _Answer:
    """An answer, where it stands, and the hash of the input it says it is to."""

    text: str
    place: str
    input_sha256: str | None


def _read_prompts(path: str | os.PathLike) -> Iterator[_Line]:
    for number, (place, values) in enumerate(_json_lines(path)):
        try:
            index, length = values["index"], values["max_seq_length"]
            for name, kind in (("input", str), ("answer_prefix", str), ("outputs", list), ("length", int)):
                if not isinstance(values[name], kind) or values[name] == []:
                    raise ValueError(f"{place} has {name}={values[name]!r:.40}; {_UNCHANGED}")
            record = read_record({**values, "index": values["sample"]}, values["task"], number)
        except KeyError as error:
            raise ValueError(f"{place} is no prompt of `hylora eval ruler-generate`: it lacks {error}") from error
        if index != number:
            raise ValueError(f"{place} has index={index} where {number} is due; {_UNCHANGED}")
        yield _Line(index, length, record)


def _read_answers(paths: Iterable[str | os.PathLike]) -> dict[int, _Answer]:
    found: dict[int, _Answer] = {}
    for path in paths:
        for place, values in _json_lines(path):
            index, text, asked = (values.get(name) for name in ("index", "pred", "input"))
            if not isinstance(index, int) or isinstance(index, bool) or not isinstance(text, str):
                raise ValueError(
                    f"{place} must have the number of a prompt as 'index' and the answer's text as 'pred'; it has "
                    f"index={index!r} and pred={text!r:.40}"
                )
            if not isinstance(asked, str | None):
                raise ValueError(f"{place} has input={asked!r:.40}, which is no text; leave it out")
            if index in found:
                raise ValueError(f"{place} answers index {index}, and so does {found[index].place}; keep one")
            found[index] = _Answer(text, place, None if asked is None else text_sha256(asked))
    return found


def _answer_of(line: _Line, given: dict[int, _Answer], prompts: str | os.PathLike) -> str:
    record = line.record
    which = f"index {line.index} of {str(prompts)!r} ({record.task} at {line.length}, sample {record.index})"
    answer = given.get(line.index)
    if answer is None:
        raise ValueError(f"there is no answer to {which}; {len(given)} answers were given, and every prompt needs one")
    # With the answer's prefix or without it: versions of the official program differ.
    if answer.input_sha256 not in (None, text_sha256(record.input), record.prompt_sha256):
        raise ValueError(f"{answer.place} says it answers another input than {which}; take the file it belongs to")
    return answer.text


def _json_lines(path: str | os.PathLike) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a file, and where it stands, in words."""
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            place = f"line {number} of {str(path)!r}"
            try:
                # Windows puts a mark before the first line.
                values = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(f"{place} is not UTF-8 text ({error}); save the file as UTF-8") from error
            except ValueError as error:
                raise ValueError(f"{place} is not JSON: {error}") from error
            if not isinstance(values, dict):
                raise ValueError(f"{place} is not an object")
            yield place, values
