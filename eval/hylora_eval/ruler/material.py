# SPDX-License-Identifier: Apache-2.0
"""What the samples of a task are made from."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from hylora_eval.ruler.chat import Chat, ChatTemplate
from hylora_eval.ruler.common_words import CommonWords
from hylora_eval.ruler.counting import TokenCounter
from hylora_eval.ruler.family import Draft, Family
from hylora_eval.ruler.frequent_words import FrequentWords
from hylora_eval.ruler.haystack import Essay, Haystack, load_haystack, sentence_splitter
from hylora_eval.ruler.implied import Implied
from hylora_eval.ruler.needles import Needles
from hylora_eval.ruler.questions import QuestionFile, Questions, load_questions
from hylora_eval.ruler.tasks import TASKS, Task
from hylora_eval.ruler.variables import Variables
from hylora_eval.ruler.words import read_words

__all__ = ["MODES", "Material", "load_material"]

MODES = ("exact", "strict")


@dataclass(frozen=True)
class Material:
    """A task at a length with what it draws on beyond word lists; None where it needs none.

    Attributes:
        task: whose samples.
        length: tokens of a prompt and its answer.
        counter: of tokens.
        essay: prose.
        questions: a file of questions and documents.
        more_words: words for long lists.
        chat: what is put around every sample.
    """

    task: Task
    length: int
    counter: TokenCounter
    essay: Essay | None = None
    questions: QuestionFile | None = None
    more_words: Sequence[str] = ()
    chat: ChatTemplate | None = None

    def family(self, example: Callable[[], Draft]) -> Family:
        """What draws the samples.

        Args:
            example: draws the worked example of variable tracking.

        Raises:
            ValueError: if the length is too small for any sample.
        """
        family: Family
        match self.task.family:
            case "needles":
                family = Needles(self.task, self.essay)
            case "implied":
                family = Implied(self.task, self.essay)
            case "variables":
                family = Variables(example())
            case "common_words":
                family = CommonWords(self.length, self.more_words)
            case "frequent_words":
                family = FrequentWords(self.length - self.task.tokens_to_generate)
            case "questions":
                family = Questions(self.task.name, self.questions)
            case _:
                raise AssertionError(self.task.family)
        return family if self.chat is None else Chat(family, self.chat)


def load_material(
    task: str,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    samples: int,
    mode: str,
    haystack: Haystack | str | os.PathLike | None = None,
    sentences: str = "auto",
    qa_files: Mapping[str, str | os.PathLike] | None = None,
    more_words: str | os.PathLike | None = None,
    chat_template: bool = False,
) -> Material:
    """Check the arguments of `generate` and read the files.

    Args:
        task, tokenizer, length, samples, mode, haystack, sentences, qa_files, more_words, chat_template: as for
            `generate`.

    Raises:
        ValueError: if an argument is out of its range, or a file it needs is not named or of another form.
        OSError: if a file cannot be read.
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r} must be one of {', '.join(TASKS)}")
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} must be one of {', '.join(map(repr, MODES))}")
    for field, value in (("length", length), ("samples", samples)):
        if value < 1:
            raise ValueError(f"{field}={value} must be at least 1")
    if mode == "strict" and not TASKS[task].is_official:
        raise ValueError(f"{task} is no task of the official generator, whose prompts are repeated; use mode='exact'")
    if mode == "strict" and chat_template:
        raise ValueError("mode='strict' repeats the official prompts, which have no chat template; use mode='exact'")
    chat = ChatTemplate(tokenizer) if chat_template else None
    material = Material(TASKS[task], length, TokenCounter(tokenizer, leading=chat is None), chat=chat)
    if material.task.needs_essay:
        essay = Essay(load_haystack(haystack), sentence_splitter(sentences), anew=mode == "strict")
        return replace(material, essay=essay)
    if material.task.family == "questions":
        file = load_questions(task, (qa_files or {}).get(task))
        if samples > len(file.questions):
            raise ValueError(f"samples={samples}, but the file of {task} has {len(file.questions)} questions")
        return replace(material, questions=file)
    if material.task.family == "common_words" and more_words is not None:
        return replace(material, more_words=read_words(more_words))
    return material
