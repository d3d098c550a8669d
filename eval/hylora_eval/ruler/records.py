# SPDX-License-Identifier: Apache-2.0
"""Records: samples of the benchmark, and their files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hylora.files import write_atomically
from hylora_eval.fingerprints import text_sha256
from hylora_eval.ruler.counting import leading_tokens, prompt_tokens
from hylora_eval.ruler.tasks import TASKS

__all__ = ["Record", "load_records", "read_record", "save_records"]


@dataclass(frozen=True)
class Record:
    """One sample.

    Attributes:
        index: number of the sample in its task.
        task: name of the task.
        input: the prompt without the answer's prefix.
        answer_prefix: how the answer begins. A model reads `input + answer_prefix`.
        outputs: expected answers.
        length: tokens of the prompt and those kept for the answer. Under "exact" the special tokens that come first
            are counted, under "strict" they are not.
        tokens_to_generate: tokens kept for the answer.
        mode: "exact", "strict", or "file" for a record that another program wrote.
        seed: of the random numbers; None where unknown.
        haystack: name of the prose around the needles; None where there is none.
        sentences: how the prose was split: "punkt" or "rules"; None where there is none.
        evidence: (start, stop) in characters of `input`, of each statement the answer follows from.
        chat_template: whether a chat template is part of the prompt, with the special tokens that it puts first.
    """

    index: int
    task: str
    input: str
    answer_prefix: str
    outputs: tuple[str, ...]
    length: int
    tokens_to_generate: int
    mode: str = "file"
    seed: int | None = None
    haystack: str | None = None
    sentences: str | None = None
    evidence: tuple[tuple[int, int], ...] = ()
    chat_template: bool = False

    @property
    def prompt(self) -> str:
        """What a model reads."""
        return self.input + self.answer_prefix

    @property
    def prompt_sha256(self) -> str:
        """SHA-256 of the prompt."""
        return text_sha256(self.prompt)

    @property
    def depths(self) -> tuple[float, ...]:
        """Where each piece of evidence starts, from 0 (beginning of the input) to 1 (its end)."""
        return tuple(start / len(self.input) for start, _ in self.evidence)

    def tokens(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """The prompt as a model reads it, with the special tokens that come first."""
        return prompt_tokens(tokenizer, self.prompt, leading=not self.chat_template)

    def evidence_tokens(self, tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, int], ...]:
        """Where each piece of evidence stands among the prompt's tokens, as (start, stop).

        Args:
            tokenizer: a fast tokenizer.

        Raises:
            ValueError: if the tokenizer cannot tell which characters a token stands for.
        """
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} does not map tokens to characters; use a fast tokenizer")
        options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
        offsets = tokenizer(self.prompt, **options)["offset_mapping"]
        shift = 0 if self.chat_template else len(leading_tokens(tokenizer))
        spans = []
        for start, stop in self.evidence:
            inside = [index for index, (left, right) in enumerate(offsets) if left < stop and right > start]
            spans.append((inside[0] + shift, inside[-1] + 1 + shift))
        return tuple(spans)


def save_records(path: str | os.PathLike, records: Iterable[Record]) -> None:
    """Write records as JSON lines; programs made for the official files can read them.

    Raises:
        OSError: if the file cannot be written.
    """
    write_atomically(path, "".join(json.dumps(asdict(record)) + "\n" for record in records))


def load_records(path: str | os.PathLike, task: str | None = None) -> list[Record]:
    """Read records, ours or those of the official generator.

    Args:
        path: of a file of JSON lines.
        task: which task it holds; by default what the records say, and otherwise the name of the folder, as the
            official generator lays its files.

    Returns:
        The records. Those of the official generator are numbered by their lines: for needles, its `index` is a
        position in the text.

    Raises:
        ValueError: if a line is not a record, or its task is not known.
        OSError: if the file cannot be read.
    """
    path = Path(path)
    records = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
                records.append(read_record(values, task or values.get("task") or path.parent.name, len(records)))
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"line {number} of {str(path)!r} is not a record with input, outputs and length: "
                    f"{type(error).__name__} {error}"
                ) from error
    return records


def read_record(values: dict[str, Any], task: str, number: int) -> Record:
    """The record in a line of a file.

    Args:
        values: of the line.
        task: which task it belongs to.
        number: of the sample, where the line does not say.

    Raises:
        ValueError: if the task is not known.
        KeyError: if a field is missing.
    """
    if task not in TASKS:
        raise ValueError(f"the records do not say their task, and {task!r} is none; give one of {', '.join(TASKS)}")
    known = {field.name for field in fields(Record)}
    own = {key: value for key, value in values.items() if key in known} if "mode" in values else {}
    shared = {
        "index": own.get("index", number),
        "task": task,
        "input": values["input"],
        "answer_prefix": values.get("answer_prefix", ""),
        "outputs": tuple(values["outputs"]),
        "length": values["length"],
        "tokens_to_generate": own.get("tokens_to_generate", TASKS[task].tokens_to_generate),
        "evidence": tuple((start, stop) for start, stop in own.get("evidence", ())),
    }
    return Record(**{**own, **shared})
