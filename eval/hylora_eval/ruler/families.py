# SPDX-License-Identifier: Apache-2.0
"""From a task to the family that draws its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hylora_eval.ruler.common_words import CommonWords
from hylora_eval.ruler.family import Draft, Family
from hylora_eval.ruler.frequent_words import FrequentWords
from hylora_eval.ruler.haystack import Essay
from hylora_eval.ruler.needles import Needles
from hylora_eval.ruler.questions import QuestionFile, Questions
from hylora_eval.ruler.tasks import Task
from hylora_eval.ruler.variables import Variables

__all__ = ["Material", "build_family"]


@dataclass(frozen=True)
class Material:
    """What a task draws on beyond word lists; None where it needs none.

    Attributes:
        essay: prose.
        questions: a file of questions and documents.
        more_words: words for long lists.
    """

    essay: Essay | None = None
    questions: QuestionFile | None = None
    more_words: Sequence[str] = ()


def build_family(task: Task, length: int, material: Material, example: Callable[[], Draft]) -> Family:
    """The family of a task at a length.

    Args:
        task: which one.
        length: tokens of prompt and answer.
        material: what it needs.
        example: draws the worked example of variable tracking.

    Raises:
        ValueError: if the length is too small for any sample.
    """
    match task.family:
        case "needles":
            return Needles(task, material.essay)
        case "variables":
            return Variables(example())
        case "common_words":
            return CommonWords(length, material.more_words)
        case "frequent_words":
            return FrequentWords(length - task.tokens_to_generate)
        case "questions":
            return Questions(task.name, material.questions)
    raise AssertionError(task.family)
