# SPDX-License-Identifier: Apache-2.0
"""Question answering over documents, from files of SQuAD or HotpotQA."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hylora_eval.ruler.family import Draft, find_all
from hylora_eval.ruler.official import SearchedFamily
from hylora_eval.ruler.streams import Streams
from hylora_eval.ruler.tasks import TASKS

__all__ = ["QuestionFile", "Questions", "load_questions"]

SOURCES = {
    "qa_1": "SQuAD's dev-v2.0.json from https://rajpurkar.github.io/SQuAD-explorer/",
    "qa_2": "HotpotQA's hotpot_dev_distractor_v1.json from https://hotpotqa.github.io/",
}
OPTIONS = {"qa_1": "--squad", "qa_2": "--hotpotqa"}


@dataclass(frozen=True)
class Question:
    """A question, its accepted answers, and the numbers of its documents and of those close to it."""

    text: str
    answers: tuple[str, ...]
    documents: tuple[int, ...]
    near: tuple[int, ...] = ()


@dataclass(frozen=True)
class QuestionFile:
    """Questions, and all documents of the file, each once, in alphabetical order."""

    questions: tuple[Question, ...]
    documents: tuple[str, ...]


def load_questions(task: str, path: str | os.PathLike | None) -> QuestionFile:
    """Read the file of a question-answering task.

    Args:
        task: "qa_1" (SQuAD) or "qa_2" (HotpotQA).
        path: of its JSON file.

    Returns:
        The questions that can be answered, in the order of the file.

    Raises:
        ValueError: if no file is named, saying where it comes from, or it is of another form.
        FileNotFoundError: if it does not exist.
        OSError: if it cannot be read.
    """
    if path is None:
        raise ValueError(
            f"{task} needs a file of questions: give {SOURCES[task]} as {OPTIONS[task]}, in Python as "
            f"qa_files={{{task!r}: PATH}}"
        )
    if not Path(path).is_file():
        raise FileNotFoundError(f"the file of {task}, {str(path)!r}, does not exist; it is {SOURCES[task]}")
    text = Path(path).read_text(encoding="utf-8")
    try:
        values = json.loads(text)
        file = _read_squad(values) if task == "qa_1" else _read_hotpot(values)
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not {SOURCES[task]}: {type(error).__name__} {error}") from error
    if not file.questions:
        raise ValueError(f"{str(path)!r} holds no question that can be answered")
    return file


class Questions(SearchedFamily):
    """The tasks qa_1 and qa_2: a sample asks the question of its number."""

    unit = "document"

    def __init__(self, name: str, file: QuestionFile) -> None:
        self.name = name
        self._file = file
        self.smallest = max(len(question.documents) for question in file.questions)

    def draw(self, size: int, streams: Streams) -> Draft:
        question, documents = self._file.questions[streams.index], self._file.documents
        own, near = list(question.documents), list(question.near)
        if size >= len(documents):
            chosen = (list(range(len(documents))) * (-(-size // len(documents))))[:size]
        elif size - len(own) > len(near):
            known = {*own, *near}
            others = [number for number in range(len(documents)) if number not in known]
            chosen = own + near + streams.pick("others", others, size - len(own) - len(near))
        else:
            chosen = own + streams.pick("near", near, size - len(own))
        texts = [documents[number] for number in chosen]
        streams.shuffle(texts)
        context = "\n\n".join(f"Document {number}:\n{text}" for number, text in enumerate(texts, 1))
        prompt = TASKS[self.name].prompt
        text, answer_prefix = prompt.fill(context=context, query=question.text)
        return Draft(
            input=text,
            answer_prefix=answer_prefix,
            outputs=question.answers,
            evidence=find_all(text, [documents[number] for number in own]),
        )


def _read_squad(values: dict[str, Any]) -> QuestionFile:
    documents = sorted({paragraph["context"] for article in values["data"] for paragraph in article["paragraphs"]})
    numbers = {text: number for number, text in enumerate(documents)}
    questions = []
    for article in values["data"]:
        of_article = [numbers[paragraph["context"]] for paragraph in article["paragraphs"]]
        for paragraph in article["paragraphs"]:
            own = numbers[paragraph["context"]]
            near = tuple(number for number in of_article if number != own)
            for item in paragraph["qas"]:
                if not item["is_impossible"]:
                    answers = tuple(answer["text"] for answer in item["answers"])
                    questions.append(Question(item["question"], answers, (own,), near))
    return QuestionFile(tuple(questions), tuple(documents))


def _read_hotpot(values: list[dict[str, Any]]) -> QuestionFile:
    def texts(item: dict[str, Any]) -> list[str]:
        return [f"{title}\n{''.join(sentences)}" for title, sentences in item["context"]]

    documents = sorted({text for item in values for text in texts(item)})
    numbers = {text: number for number, text in enumerate(documents)}
    questions = tuple(
        Question(item["question"], (item["answer"],), tuple(numbers[text] for text in texts(item))) for item in values
    )
    return QuestionFile(questions, tuple(documents))
